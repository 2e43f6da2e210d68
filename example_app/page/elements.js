// What both pages are made of.

export const $ = (id) => document.getElementById(id);
export const say = (text) => { $("say").textContent = text; }; // to who hears the page

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const iconButton = (name, label, onclick, extra = "") =>
  h("button", { type: "button", className: `icon-button ${extra}`, title: label.split(" ")[0], ariaLabel: label, onclick }, icon(name));

export function bytes(size) {
  if (size < 1024) return `${size} B`;
  let unit = 0;
  while (size >= 1023.5 && unit < 5) { size /= 1024; unit += 1; }
  return `${size.toFixed(size < 10 ? 1 : 0).replace(".0", "")} ${["B", "KB", "MB", "GB", "TB", "PB"][unit]}`;
}
