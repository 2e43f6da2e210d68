// The page of the example app: no build step, no library. State comes from /api/overview, every second and a half.

import { $, bytes, h, icon, iconButton, say } from "/elements.js";

const POLL = 1500;
const AT_ONCE = 3;
const state = { items: [], storage: null, maxSize: Infinity, kind: "all", find: "", open: null };

// ------------------------------------------------------------------------------------------------- small things
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "narrow" });
function ago(when) {
  const seconds = Math.max(0, (Date.now() - new Date(when)) / 1000);
  if (seconds < 5) return "just now";
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
    if (seconds >= length) return relative.format(-Math.floor(seconds / length), unit);
  }
}

const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const versioned = (file) => `${file.url}?v=${file.checksum.slice(-12)}`;
const download = (file) => `${file.url}?download`;

const ARCHIVES = /zip|compressed|tar|rar|7z|gzip|bzip|xz|zstd/;
function kindOf({ content_type: type }) {
  const family = type.split("/")[0];
  if (["image", "video", "audio"].includes(family)) return family;
  if (type === "application/pdf") return "pdf";
  if (family === "text" || /json|xml|javascript|yaml|toml/.test(type)) return "text";
  return ARCHIVES.test(type) ? "archive" : "other";
}

function extension(name) {
  const found = /\.([A-Za-z0-9]{1,5})$/.exec(name);
  return found ? found[1].toUpperCase() : "FILE";
}

const WORDS = { image: "image", video: "video", audio: "audio", archive: "archive" };
function typeOf(file) {
  const kind = kindOf(file);
  return [extension(file.name).replace("FILE", WORDS[kind] ? "" : "File"), WORDS[kind] ?? ""].join(" ").trim();
}

const KINDS = {
  all: ["All", () => true],
  image: ["Images", (kind) => kind === "image"],
  media: ["Audio & video", (kind) => kind === "video" || kind === "audio"],
  document: ["Documents", (kind) => kind === "pdf" || kind === "text"],
  other: ["Other", (kind) => kind === "archive" || kind === "other"],
};

/** Make the children of a list those of `wanted`, keeping the elements (and players) that are there already. */
function reconcile(list, wanted, key, make, update = () => {}) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = null;
  for (const each of wanted) {
    const id = key(each);
    let child = known.get(id);
    if (!child) {
      child = make(each);
      child.dataset.key = id;
    }
    known.delete(id);
    const expected = place ? place.nextElementSibling : list.firstElementChild;
    if (child !== expected) list.insertBefore(child, expected);
    update(child, each);
    place = child;
  }
  for (const child of known.values()) child.remove();
}

// ------------------------------------------------------------------------------------------------- previews
async function textOf(file, length) {
  if (file.size === 0) return "(empty)";
  const answer = await fetch(versioned(file), { headers: { Range: `bytes=0-${length - 1}` } });
  if (!answer.ok) throw new Error(answer.statusText);
  return new TextDecoder().decode(await answer.arrayBuffer()) + (file.size > length ? "\n…" : "");
}

const sheet = (file) => h("span", { className: "sheet" }, extension(file.name));

// What is far below the fold asks the server for nothing.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.fill();
  }
}, { rootMargin: "300px" });

function thumb(item) {
  const { file } = item;
  const kind = kindOf(file);
  const button = h("button", {
    type: "button", className: `thumb ${kind}`, ariaLabel: `Open ${item.title}`, onclick: () => openViewer(item.id),
  });
  const plain = () => button.replaceChildren(sheet(file));
  button.fill = () => {
    if (kind === "image") {
      button.append(h("img", { src: versioned(file), alt: "", decoding: "async", onerror: plain }));
    } else if (kind === "video") {
      const length = h("span", { className: "badge" }, icon("play"), "Video");
      const video = h("video", { src: `${versioned(file)}#t=1`, muted: true, preload: "metadata", tabIndex: -1, onerror: plain });
      video.addEventListener("loadedmetadata", () => {
        if (Number.isFinite(video.duration)) length.lastChild.data = clock(video.duration);
      });
      button.append(video, length);
    } else if (kind === "text") {
      textOf(file, 1024).then((text) => button.append(h("pre", { textContent: text, ariaHidden: "true" })), plain);
    } else plain();
  };
  seen.observe(button);
  const cover = h("div", { className: "cover" }, button);
  if (kind === "audio") cover.append(h("audio", { src: versioned(file), controls: true, preload: "none", ariaLabel: `Play ${item.title}` }));
  return cover;
}

function clock(seconds) {
  const whole = Math.round(seconds);
  const tail = String(whole % 60).padStart(2, "0");
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${String(Math.floor(whole / 60) % 60).padStart(2, "0")}:${tail}` : `${Math.floor(whole / 60)}:${tail}`;
}

// ------------------------------------------------------------------------------------------------- the files
const shownItems = () => state.items.filter((item) =>
  KINDS[state.kind][1](kindOf(item.file)) && item.title.toLowerCase().includes(state.find));

const signature = (item) => `${item.id} ${item.file.checksum} ${item.title}`;
let drawn = false;

function drawCards() {
  const items = shownItems();
  reconcile($("grid"), items, signature, makeCard, (element, item) => {
    element.querySelector(".when").textContent = ` · ${ago(item.updated_at)}`;
    const clips = element.querySelector(".clips");
    clips.hidden = item.attachments.length === 0;
    clips.lastChild.data = String(item.attachments.length);
  });
  drawn = true;
  document.body.classList.toggle("bare", state.items.length === 0);
  $("count").textContent = state.items.length ? state.items.length.toLocaleString("en") : "";
  $("empty").hidden = items.length > 0;
  $("empty").textContent = state.items.length ? "No file is like that." : "Nothing here yet.";
}

function makeCard(item) {
  const { file } = item;
  return h("li", { className: drawn ? "card fresh" : "card", "data-id": item.id },
    thumb(item),
    h("div", { className: "label" },
      h("strong", { title: item.title, dir: "auto" }, item.title),
      h("span", { title: file.content_type }, `${typeOf(file)} · ${bytes(file.size)}`, h("span", { className: "when" }))),
    h("div", { className: "acts" },
      h("a", { className: "icon-button", href: download(file), title: "Download", ariaLabel: `Download ${item.title}`, download: "" }, icon("down")),
      iconButton("swap", `Replace ${item.title}`, () => chooseReplacement(item.id)),
      iconButton("bin", `Delete ${item.title}`, () => askToDelete(item), "bad"),
      h("span", { className: "clips", title: "Attachments" }, icon("clip"), "0")));
}

for (const [value, [label]] of Object.entries(KINDS)) {
  $("kinds").append(h("label", {}, h("input", {
    type: "radio", name: "kind", value, checked: value === "all", onchange: () => { state.kind = value; drawCards(); },
  }), label));
}
$("find").addEventListener("input", (event) => { state.find = event.target.value.trim().toLowerCase(); drawCards(); });

// ------------------------------------------------------------------------------------------------- storage, collector
const gauge = ({ objects, bytes: size }) => (objects ? `${objects.toLocaleString("en")} · ${bytes(size)}` : "none");

function drawStorage() {
  const s = state.storage;
  $("total-bytes").textContent = bytes(s.on_backend.bytes);
  $("total-objects").textContent = `in ${count(s.on_backend.objects, "object")}`;
  for (const [id, part] of [["rows", s.in_rows], ["sent", s.in_uploads], ["wait", s.waiting_total], ["rest", s.unaccounted]]) {
    const share = s.on_backend.bytes ? (100 * part.bytes) / s.on_backend.bytes : 0;
    $(`split-${id}`).style.width = part.bytes ? `max(4px, ${share}%)` : "0";
    $(`split-${id}`).style.flexShrink = "1";
    $(`sum-${id}`).textContent = gauge(part);
  }
  $("grace").textContent = count(s.grace, "second");
  $("problem").hidden = !s.problem;
  $("problem").textContent = s.problem ? `The collector stopped, and says why: ${s.problem}` : "";
  $("collected-total").textContent = gauge(s.collected_total);
  $("no-waiting").hidden = s.waiting.length > 0;
  const now = performance.now();
  for (const each of s.waiting) each.deadline = now + 1000 * each.seconds_left;
  let number = 0;
  reconcile($("waiting"), s.waiting, (each) => `${each.name} ${each.size} ${number++}`,
    (each) => h("li", {}, h("span", { title: each.name, dir: "auto" }, each.name), h("time"), h("i")),
    (element, each) => { element.deadline = each.deadline; });
  if (s.waiting_total.objects > s.waiting.length) $("waiting").lastElementChild.title = `and ${s.waiting_total.objects - s.waiting.length} more`;
  $("collected-title").hidden = s.collected.length === 0;
  reconcile($("collected"), s.collected.slice(0, 6), (each) => `${each.name} ${each.at}`,
    (each) => h("li", {}, h("span", { title: each.name, dir: "auto" }, each.name), h("time", { dateTime: each.at })));
  tick();
}

/** What changes by itself between two answers: countdowns and "… ago". */
function tick() {
  const s = state.storage;
  if (!s) return;
  $("swept").textContent = s.swept_at ? ago(s.swept_at) : "not yet";
  $("reconciled").textContent = s.reconciled_at ? `${ago(s.reconciled_at)}, ${s.orphans ? count(s.orphans, "orphan") : "no orphan"}` : "not yet";
  for (const element of $("waiting").children) {
    const left = Math.max(0, (element.deadline - performance.now()) / 1000);
    element.querySelector("time").textContent = left > 0 ? `${Math.ceil(left)} s` : "next sweep";
    element.querySelector("i").style.transform = `scaleX(${Math.min(1, left / s.grace)})`;
  }
  for (const time of $("collected").querySelectorAll("time")) time.textContent = ago(time.dateTime);
}
setInterval(tick, 250);

// ------------------------------------------------------------------------------------------------- the viewer
const item = (id) => state.items.find((each) => each.id === id);

function openViewer(id) {
  state.open = id;
  drawViewer();
  $("viewer").showModal();
}

let staged = "";
function drawViewer() {
  const current = state.open && item(state.open);
  if (!current) {
    if ($("viewer").open) $("viewer").close();
    return;
  }
  const { file } = current;
  $("viewer-title").textContent = current.title;
  if (staged !== signature(current)) {
    staged = signature(current);
    $("stage").replaceChildren(preview(file));
    const digest = file.checksum.replace("sha256:", "");
    $("facts").replaceChildren(...[
      ["Type", file.content_type], ["Size", `${bytes(file.size)}${file.size < 1024 ? "" : ` (${file.size.toLocaleString("en")} bytes)`}`],
      ["Added", new Date(current.created_at).toLocaleString()],
    ].flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
    h("dt", {}, "SHA-256"), h("dd", {}, h("code", {}, digest)));
    $("viewer-buttons").replaceChildren(
      h("a", { className: "button strong", href: download(file), download: "" }, icon("down"), "Download"),
      h("button", { type: "button", className: "button", onclick: () => chooseReplacement(current.id) }, icon("swap"), "Replace"),
      h("button", { type: "button", className: "button", onclick: () => askToDelete(current) }, icon("bin"), "Delete"));
  }
  reconcile($("attached"), current.attachments, (each) => each.id, (each) => h("li", {},
    h("a", { href: each.url, target: "_blank", rel: "noopener", title: each.name }, each.name),
    h("span", {}, bytes(each.size)),
    iconButton("x", `Remove ${each.name}`, () => send("DELETE", each.url.replace("/items", "/api/items")).then(refresh), "bad")));
}

function preview(file) {
  const url = versioned(file);
  const none = () => h("div", { className: "none" }, sheet(file), h("p", {}, "There is no preview of this kind of file."));
  const failed = (event) => event.target.replaceWith(none());
  const kind = kindOf(file);
  if (kind === "image") return h("img", { src: url, alt: file.name, onerror: failed });
  if (kind === "video") return h("video", { src: url, controls: true, preload: "metadata", playsInline: true, onerror: failed });
  if (kind === "audio") return h("audio", { src: url, controls: true, preload: "metadata", onerror: failed });
  if (kind === "pdf") {
    // A browser's PDF viewer takes the focus, and then keeps the Escape key to itself.
    const back = () => { if (document.activeElement === frame) $("close").focus(); };
    const frame = h("iframe", { src: `${url}#navpanes=0&view=FitH`, title: file.name, onload: () => { back(); setTimeout(back, 300); } });
    return frame;
  }
  if (kind === "text") {
    const pre = h("pre", { tabIndex: 0, dir: "auto" });
    textOf(file, 65536).then((text) => { pre.textContent = text; }, () => pre.replaceWith(none()));
    return pre;
  }
  return none();
}

$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => { 
  state.open = null;
  staged = "";
  $("stage").replaceChildren();
  $("uploads").append(...$("attaching").children);
});
for (const dialog of [$("viewer"), $("confirm")]) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// ------------------------------------------------------------------------------------------------- delete, replace, attach
async function send(method, url) {
  const answer = await fetch(url, { method });
  if (!answer.ok && answer.status !== 404) say(`That did not work: ${answer.status} ${answer.statusText}`);
}

let confirmed = () => {};
function askToDelete(current) {
  $("confirm-title").textContent = `Delete ${current.title}?`;
  const also = current.attachments.length ? ` and ${count(current.attachments.length, "attachment")}` : "";
  $("confirm-text").textContent = `The row${also} goes now. The bytes stay for ${count(state.storage.grace, "second")}, then the collector takes them away.`;
  confirmed = async () => {
    $("confirm").close();
    $("viewer").close();
    await send("DELETE", `/api/items/${current.id}`);
    say(`${current.title} was deleted`);
    await refresh();
    $("files").focus({ preventScroll: true });
  };
  $("confirm").showModal();
}
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-yes").addEventListener("click", () => confirmed());

let target = null;
function chooseReplacement(id) {
  target = id;
  $("replacement").click();
}
$("replacement").addEventListener("change", ({ target: input }) => {
  if (input.files[0]) enqueue(input.files[0], { replaces: target });
  input.value = "";
});
$("attach").addEventListener("click", () => { target = state.open; $("attachment").click(); });
$("attachment").addEventListener("change", ({ target: input }) => {
  for (const file of input.files) enqueue(file, { attachTo: target });
  input.value = "";
});

// ------------------------------------------------------------------------------------------------- uploads
const waiting = [];
let running = 0;

function enqueue(file, how = {}) {
  const upload = { file, how, size: file.size };
  const verb = how.replaces ? `Replaces ${item(how.replaces)?.title ?? ""}` : how.attachTo ? `Attached to ${item(how.attachTo)?.title ?? ""}` : "";
  upload.state = h("span", { className: "state" }, "Waiting");
  upload.bar = h("progress", { max: 1, value: 0, ariaLabel: `Progress of ${file.name}` });
  upload.ends = h("span", { className: "ends" });
  upload.element = h("li", { className: "upload", title: verb },
    h("span", { className: "tag", ariaHidden: "true" }, extension(file.name)),
    h("span", { className: "name", dir: "auto" }, file.name), upload.ends, upload.state, upload.bar);
  $(how.attachTo ? "attaching" : "uploads").append(upload.element);
  start(upload);
}

function start(upload) {
  upload.element.className = "upload";
  upload.bar.hidden = false;
  upload.state.textContent = `${bytes(upload.size)}, waiting`;
  upload.ends.replaceChildren(iconButton("x", `Cancel ${upload.file.name}`, () => cancel(upload)));
  waiting.push(upload);
  next();
}

function cancel(upload) {
  const place = waiting.indexOf(upload);
  if (place >= 0) waiting.splice(place, 1);
  upload.xhr?.abort();
  upload.element.remove();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    transfer(waiting.shift()).finally(() => { running -= 1; next(); });
  }
}

function transfer(upload) {
  const { file, how } = upload;
  const xhr = upload.xhr = new XMLHttpRequest();
  return new Promise((resolve) => {
    const began = performance.now();
    xhr.upload.onprogress = ({ loaded, total }) => {
      upload.bar.value = total ? loaded / total : 1;
      const speed = loaded / ((performance.now() - began) / 1000);
      upload.state.textContent = loaded < total
        ? `${bytes(Math.min(loaded, file.size))} of ${bytes(file.size)} · ${bytes(speed)}/s`
        : `${bytes(file.size)}, being stored`;
    };
    xhr.onload = () => (xhr.status < 300 ? succeed(upload) : fail(upload, problemOf(xhr, file)));
    xhr.onerror = () => fail(upload, file.size > state.maxSize ? tooLarge(file) : "The connection was lost.", true);
    xhr.onloadend = resolve;
    xhr.responseType = "json";
    if (how.replaces) {
      xhr.open("PUT", `/api/items/${how.replaces}/file`);
      xhr.setRequestHeader("Content-Type", file.type || "application/octet-stream");
      const name = encodeURIComponent(file.name).replace(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
      xhr.setRequestHeader("Content-Disposition", `attachment; filename*=UTF-8''${name}`);
      xhr.send(file);
    } else {
      const form = new FormData();
      form.append(how.attachTo ? "files" : "file", file, file.name);
      xhr.open("POST", how.attachTo ? `/api/items/${how.attachTo}/attachments` : "/api/items");
      xhr.send(form);
    }
  });
}

const tooLarge = (file, limit = state.maxSize) => `Too large: it has ${bytes(file.size)}, and ${bytes(limit)} are allowed.`;

function problemOf({ status, response }, file) {
  const extra = response?.extra ?? {};
  if (status === 413) return tooLarge(file, Math.min(extra.limit ?? Infinity, state.maxSize));
  if (status === 415) return `Not accepted here: ${extra.value ?? "this kind of file"}. Allowed: ${(extra.limit ?? []).join(", ") || "other kinds"}.`;
  if (status === 409) return "It took too long to be attached, and was let go. Try again.";
  if (status === 404) return "What it was meant for is gone.";
  if (status === 507 || status === 503) return "The storage cannot take it at the moment.";
  return response?.detail ?? `The server answered ${status}.`;
}

function succeed(upload) {
  upload.element.classList.add("done");
  upload.bar.hidden = true;
  upload.state.textContent = upload.how.replaces ? "Replaced" : upload.how.attachTo ? "Attached" : "Added";
  upload.ends.replaceChildren();
  const card = upload.xhr.response;
  state.items = upload.how.replaces || upload.how.attachTo
    ? state.items.map((each) => (each.id === card.id ? card : each))
    : [card, ...state.items.filter((each) => each.id !== card.id)];
  say(`${upload.file.name}: ${upload.state.textContent}`);
  draw();
  setTimeout(() => upload.element.remove(), 1600);
  refresh();
}

function fail(upload, why, again = false) {
  upload.element.classList.add("failed");
  upload.bar.hidden = true;
  upload.state.textContent = why;
  upload.ends.replaceChildren(
    ...(again ? [h("button", { type: "button", className: "button small", onclick: () => start(upload) }, "Try again")] : []),
    iconButton("x", `Dismiss ${upload.file.name}`, () => upload.element.remove()));
  say(`${upload.file.name}: ${why}`);
}

$("choose").addEventListener("click", () => $("picker").click());
$("picker").addEventListener("change", ({ target: input }) => {
  for (const file of input.files) enqueue(file);
  input.value = "";
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0;
addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; document.body.classList.add("dragging"); } });
addEventListener("dragleave", (event) => { if (carriesFiles(event) && --depth <= 0) undrag(); });
addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  undrag();
  const how = state.open ? { attachTo: state.open } : {};
  for (const each of event.dataTransfer.items) {
    if (each.kind !== "file" || each.webkitGetAsEntry?.()?.isDirectory) continue;
    enqueue(each.getAsFile(), how);
  }
});
function undrag() {
  depth = 0;
  document.body.classList.remove("dragging");
}

addEventListener("paste", (event) => {
  for (const file of event.clipboardData?.files ?? []) {
    const pasted = file.name === "image.png" ? new File([file], `Pasted ${new Date().toLocaleString("sv").replaceAll(":", ".")}.png`, { type: file.type }) : file;
    enqueue(pasted, state.open ? { attachTo: state.open } : {});
  }
});

// ------------------------------------------------------------------------------------------------- live
function draw() {
  drawCards();
  drawViewer();
}

let asked = 0;
async function refresh() {
  const turn = ++asked;
  try {
    const answer = await fetch("/api/overview");
    if (!answer.ok) throw new Error(String(answer.status));
    const overview = await answer.json();
    if (turn !== asked) return; // a later question is under way
    state.items = overview.items;
    state.storage = overview.storage;
    state.maxSize = overview.max_size;
    $("limit").textContent = `, up to ${bytes(overview.max_size)} each`;
    $("live").className = "live on";
    $("live").textContent = `${{ sqlite: "SQLite", postgresql: "PostgreSQL" }[overview.storage.database] ?? overview.storage.database} · ${overview.storage.backend}`;
    draw();
    drawStorage();
  } catch {
    $("live").className = "live off";
    $("live").textContent = "The server does not answer";
  }
}

let timer;
async function live() {
  clearTimeout(timer);
  await refresh();
  if (!document.hidden) timer = setTimeout(live, POLL);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) live(); });
live();
