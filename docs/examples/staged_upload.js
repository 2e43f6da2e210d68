// Upload as soon as a file is chosen, submit when the form is complete.
async function stage(file, path) {
  const address = `${path}?filename=${encodeURIComponent(file.name)}`;
  const answer = await fetch(address, { method: "POST", body: file });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return (await answer.json()).token;
}

async function submit(name, letter, works) {
  const body = JSON.stringify({ name, letter, works });
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("/candidates", { method: "POST", headers, body });
  return { status: answer.status, ...(await answer.json()) };
}
