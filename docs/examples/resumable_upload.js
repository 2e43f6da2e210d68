// npm install tus-js-client
import * as tus from "tus-js-client";

export function uploadFilm(file, title, { endpoint, headers, onProgress }) {
  return new Promise((resolve, reject) => {
    let token;
    const upload = new tus.Upload(file, {
      endpoint,
      headers,
      metadata: { filename: file.name ?? "film.mp4", filetype: file.type ?? "video/mp4" },
      retryDelays: [0, 1000, 3000, 5000, 10000],
      removeFingerprintOnSuccess: true,
      onProgress,
      onAfterResponse: (_, response) => {
        token = response.getHeader("Granite-Upload-Token") ?? token;
      },
      onError: reject,
      onSuccess: async () => {
        const answer = await fetch(new URL("/films", endpoint), {
          method: "POST",
          headers: { ...headers, "Content-Type": "application/json" },
          body: JSON.stringify({ title, upload: token }),
        });
        answer.ok ? resolve(await answer.json()) : reject(new Error(await answer.text()));
      },
    });
    upload.findPreviousUploads().then((found) => {
      if (found.length) upload.resumeFromPreviousUpload(found[0]); // after a reload
      upload.start();
    });
  });
}
