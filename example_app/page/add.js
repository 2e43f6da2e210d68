// The form for a large file. Its upload begins as soon as the file is chosen, by tus-js-client, and goes on after a
// pause, a lost network, or a reload. What the form sends in the end is a token. Without the library this does nothing:
// then the form sends the file.

import { $, bytes, h, say } from "/elements.js";

const ENDPOINT = "/uploads";
const TOKEN = "Granite-Upload-Token";
const form = $("form");
const chooser = $("file");
let current = null; // the upload whose token the form sends

if (globalThis.tus) begin();

function begin() {
  $("plain").hidden = true;
  $("resumable").hidden = false;
  chooser.removeAttribute("name"); // its token is sent in its place
  chooser.addEventListener("change", () => { if (chooser.files[0]) choose(chooser.files[0]); });
  form.addEventListener("submit", waitForUpload);
  addEventListener("online", () => { if (current?.failed) current.start("goes on"); });
  showEarlier();
}

// ------------------------------------------------------------------------------------------------- one upload
async function choose(file) {
  const upload = new tus.Upload(file, {
    endpoint: ENDPOINT,
    metadata: { filename: file.name, filetype: file.type || "application/octet-stream" },
    retryDelays: [0, 1000, 3000, 5000, 10000, 20000],
    onProgress: (sent) => transfer.progress(sent),
    onAfterResponse: (_, response) => { transfer.token = response.getHeader(TOKEN) ?? transfer.token; },
    onSuccess: () => transfer.finish(),
    onShouldRetry: (error) => {
      const status = error.originalResponse?.getStatus() ?? 0;
      const worth = navigator.onLine && (status < 400 || status >= 500 || status === 409 || status === 423);
      if (worth) transfer.wait();
      return worth;
    },
    onError: (error) => transfer.fail(reason(error)),
  });
  const [earlier] = (await upload.findPreviousUploads()).sort((a, b) => new Date(b.creationTime) - new Date(a.creationTime));
  if (earlier && earlier.uploadUrl === current?.upload.url) { // chosen once more
    if (!current.running && !current.token) current.start("goes on");
    return;
  }
  const transfer = new Transfer(file.name, file.size, upload);
  replace(transfer);
  if (earlier) {
    upload.resumeFromPreviousUpload(earlier);
    offered(earlier)?.remove();
  }
  transfer.start(earlier ? "goes on" : "begins");
}

/** The form has one file: the upload before this one ends. */
function replace(transfer) {
  current?.cancel();
  $("kept")?.remove();
  current = transfer;
}

class Transfer {
  token = null;
  failed = false;
  sent = 0;
  seen = []; // [time, bytes sent], of the last seconds

  constructor(name, size, upload) {
    Object.assign(this, { name, size, upload });
    this.bar = h("progress", { max: 100, value: 0, ariaLabel: `Upload of ${name}` });
    this.state = h("span", { className: "state" }, "Looks for what is here already");
    this.toggle = h("button", { type: "button", className: "button small", onclick: () => (this.running ? this.pause() : this.start("goes on")) });
    this.element = h("li", { className: "transfer" },
      h("strong", { dir: "auto" }, name), this.bar, this.state,
      h("span", { className: "buttons" }, this.toggle,
        h("button", { type: "button", className: "button small", ariaLabel: `Cancel the upload of ${name}`, onclick: () => this.end() }, "Cancel")));
    $("transfers").prepend(this.element);
  }

  start(how) {
    this.failed = false;
    this.seen = [];
    this.show(true);
    say(`The upload of ${this.name} ${how}`);
    this.upload.start();
  }

  async pause() {
    await this.upload.abort();
    this.show(false);
    say(`Paused at ${this.share()} percent`);
  }

  /** The server forgets what it has, and the browser where it is. */
  async cancel() {
    this.element.remove();
    await this.upload.abort(true).catch(() => {}); // what the server is not told of expires
  }

  end() {
    current = null;
    waitNoMore();
    chooser.value = "";
    chooser.required = true;
    chooser.focus();
    this.cancel().then(() => say(`${this.name} was cancelled`));
  }

  progress(sent) {
    this.sent = sent;
    const now = performance.now();
    this.seen = [...this.seen.filter(([time]) => now - time < 4000), [now, sent]];
    this.show(true);
  }

  /** Until the next try; the bar may be ahead of what the server has. */
  wait() {
    this.seen = [];
    this.state.textContent = "The connection was lost. It is tried again, and goes on where it stopped.";
  }

  finish() {
    this.sent = this.size;
    this.show(false);
    this.toggle.remove();
    this.element.append(h("input", { type: "hidden", name: "file", value: this.token }));
    this.element.classList.add("done");
    this.state.textContent = `${bytes(this.size)}, is here`;
    chooser.required = false;
    say(`${this.name} is here`);
    if (form.dataset.waiting) form.requestSubmit();
  }

  fail(why) {
    this.failed = true;
    this.show(false);
    this.state.textContent = why;
    this.toggle.textContent = "Try again";
    say(`${this.name}: ${why}`);
    waitNoMore();
  }

  share() {
    return this.size ? Math.floor((100 * this.sent) / this.size) : 100;
  }

  show(running) {
    this.running = running;
    this.bar.value = this.share();
    this.toggle.textContent = running ? "Pause" : "Resume";
    this.element.classList.toggle("failed", this.failed);
    const parts = [`${bytes(this.sent)} of ${bytes(this.size)}`, `${this.share()} %`];
    const [first, last] = [this.seen[0], this.seen.at(-1)];
    if (!running) parts.push("paused");
    else if (last && last[0] > first[0] + 200) {
      const rate = (1000 * (last[1] - first[1])) / (last[0] - first[0]);
      parts.push(`${bytes(rate)}/s`);
      if (rate > 0) parts.push(`${left((this.size - this.sent) / rate)} left`);
    }
    this.state.textContent = parts.join(" · ");
  }
}

const left = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`);

function reason(error) {
  const answer = error.originalResponse;
  if (!answer) return "The server cannot be reached.";
  if (answer.getStatus() === 413) return "It is too large to be taken here.";
  try {
    return JSON.parse(answer.getBody()).detail;
  } catch {
    return `The server answered ${answer.getStatus()}.`;
  }
}

// ------------------------------------------------------------------------------------------------- uploads of before a reload
/** What this browser began here: finished uploads can be used at once, others once their file is chosen again. */
async function showEarlier() {
  const storage = tus.defaultOptions.urlStorage;
  for (const earlier of await storage.findAllUploads()) {
    const answer = await fetch(earlier.uploadUrl, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } }).catch(() => null);
    if (answer === null || answer.status === 423 || answer.status >= 500) continue;
    if (!answer.ok) { // it was submitted, cancelled, or has expired
      await storage.removeUpload(earlier.urlStorageKey);
      continue;
    }
    const name = earlier.metadata.filename;
    const token = answer.headers.get(TOKEN);
    const kept = $("kept")?.dataset;
    if (token && kept?.name === name && Number(kept.size) === earlier.size) use(earlier, name, token); // it is in the form again
    else if (!offered(earlier) && !current) offer(earlier, name, Number(answer.headers.get("Upload-Offset")), token);
  }
}

const offered = (earlier) => document.querySelector(`[data-key="${CSS.escape(earlier.urlStorageKey)}"]`);

async function discard(earlier) {
  await tus.Upload.terminate(earlier.uploadUrl).catch(() => {});
  await tus.defaultOptions.urlStorage.removeUpload(earlier.urlStorageKey);
}

function use(earlier, name, token) {
  offered(earlier)?.remove();
  replace(new Transfer(name, earlier.size, { url: earlier.uploadUrl, abort: () => discard(earlier) }));
  current.token = token;
  current.finish();
}

function offer(earlier, name, sent, token) {
  const element = h("li", { className: "transfer earlier", "data-key": earlier.urlStorageKey },
    h("strong", { dir: "auto" }, name),
    h("progress", { max: 100, value: (100 * sent) / earlier.size, ariaLabel: `Earlier upload of ${name}` }),
    h("span", { className: "state" }, token ? `${bytes(earlier.size)}, is here from before` : `${bytes(sent)} of ${bytes(earlier.size)} are here. Choose the same file to go on.`),
    h("span", { className: "buttons" },
      h("button", { type: "button", className: "button small", onclick: () => (token ? use(earlier, name, token) : chooser.click()) }, token ? "Use it" : "Choose it"),
      h("button", { type: "button", className: "button small", ariaLabel: `Discard ${name}`, onclick: () => {
        element.remove();
        chooser.focus();
        discard(earlier).then(() => say(`${name} was discarded`));
      } }, "Discard")));
  $("transfers").append(element);
}

// ------------------------------------------------------------------------------------------------- the form
/** Whoever presses the button early need not come back for it. */
function waitForUpload(event) {
  if (!current || current.token) return;
  event.preventDefault();
  if (!current.running) current.start("goes on");
  form.dataset.waiting = "yes";
  $("submit").textContent = "Added as soon as the file is here";
  say("It is added as soon as the file is here");
}

function waitNoMore() {
  delete form.dataset.waiting;
  $("submit").textContent = "Add to the library";
}
