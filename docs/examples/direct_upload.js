// Sends a file to wherever the application says, and returns the token that stands for it.
export async function upload(api, file, { signal, onProgress = () => {} } = {}) {
  const ask = async (path, method, body) => {
    const answer = await fetch(new URL(path, api), {
      method,
      signal,
      credentials: "include",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    return answer.status === 204 ? null : answer.json();
  };
  const send = async (request, bytes) => {
    // A signed request is a permission of its own: no cookies with it. Three tries, since networks fail.
    for (let tries = 3; ; tries--) {
      try {
        const { url, method, headers } = request;
        const answer = await fetch(new URL(url, api), { method, headers, body: bytes, signal, credentials: "omit" });
        if (answer.ok) return;
        throw new Error(`the store answered ${answer.status}`);
      } catch (error) {
        if (signal?.aborted || tries === 1) throw error;
      }
    }
  };

  let told = await ask("direct", "POST", { name: file.name, size: file.size, type: file.type || undefined });
  const { id } = told;
  try {
    if (told.request) {
      await send(told.request, file);
    } else {
      for (let number = 1; number <= told.parts.count; number++) {
        if (number >= told.parts.first + told.parts.requests.length) {
          told = await ask(`direct/${id}?first=${number}`, "GET");
        }
        const { size, first, requests } = told.parts;
        await send(requests[number - first], file.slice((number - 1) * size, number * size));
        onProgress(Math.min(number * size, file.size), file.size);
      }
    }
    return await ask(`direct/${id}/complete`, "POST");
  } catch (error) {
    await fetch(new URL(`direct/${id}`, api), { method: "DELETE", credentials: "include" }).catch(() => {});
    throw error;
  }
}
