// npm install @uppy/core @uppy/dashboard @uppy/tus
import Uppy from "@uppy/core";
import Dashboard from "@uppy/dashboard";
import Tus from "@uppy/tus";
import "@uppy/core/css/style.min.css";
import "@uppy/dashboard/css/style.min.css";

export function filmUploader(target, { endpoint, headers, onUploaded }) {
  const tokens = new Map();
  return new Uppy({ restrictions: { allowedFileTypes: ["video/*"] } })
    .use(Dashboard, { target, inline: true })
    .use(Tus, {
      endpoint,
      headers,
      removeFingerprintOnSuccess: true,
      onAfterResponse: (request, response) => {
        const token = response.getHeader("Granite-Upload-Token");
        if (token) tokens.set(request.getURL(), token);
      },
    })
    .on("upload-success", (file, { uploadURL }) => onUploaded(file.name, tokens.get(uploadURL)));
}
