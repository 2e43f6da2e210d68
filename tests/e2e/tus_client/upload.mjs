// Uploads a file, goes on over every cut, and prints the token: upload.mjs ENDPOINT FILE PART_BYTES PARALLEL [PROTOCOL]
import { createReadStream, statSync } from "node:fs";
import { Upload } from "tus-js-client";

const [endpoint, path, part, parallel, protocol = "tus-v1"] = process.argv.slice(2);
const uploadSize = statSync(path).size;
const parallelUploads = Number(parallel);
let token = null;

const upload = new Upload(createReadStream(path), {
  endpoint,
  protocol,
  headers: { Authorization: "Bearer ann" },
  metadata: { filename: "träume.bin", filetype: "application/octet-stream" },
  chunkSize: Number(part),
  uploadSize,
  parallelUploads,
  retryDelays: Array(200).fill(300),
  onShouldRetry: () => true,
  onAfterResponse: (_, response) => {
    token = response.getHeader("Granite-Upload-Token") ?? token;
  },
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => console.log(JSON.stringify({ token, url: upload.url })),
});
upload.start();
