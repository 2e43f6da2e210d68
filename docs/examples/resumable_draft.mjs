// npm install tus-js-client
import { createReadStream, statSync } from "node:fs";
import * as tus from "tus-js-client";

export function upload(path, { endpoint, headers, chunkSize = Infinity, onProgress }) {
  return new Promise((resolve, reject) => {
    let token;
    const upload = new tus.Upload(createReadStream(path), {
      endpoint,
      headers,
      protocol: "ietf-draft-05", // interop version 6; "ietf-draft-03" is 5
      uploadSize: statSync(path).size,
      chunkSize,
      metadata: { filename: path.split("/").at(-1), filetype: "video/mp4" },
      retryDelays: [0, 1000, 3000, 5000, 10000],
      onProgress,
      onAfterResponse: (_, response) => {
        token = response.getHeader("Granite-Upload-Token") ?? token;
      },
      onError: reject,
      onSuccess: () => resolve(token),
    });
    upload.start();
  });
}
