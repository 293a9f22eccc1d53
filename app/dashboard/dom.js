import { sentence } from "./format.js";

// Builds elements. Text only ever becomes text nodes, so nothing from the service is parsed.

export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c || c === 0 || c === ""));
  return element;
}

// Text of others: kept from turning the direction of what stands beside it.
export const foreign = (text, attributes) => h("bdi", attributes, String(text));

export function say(text) {
  document.getElementById("announce").textContent = text;
}

// A button that copies text and says so.
export function copyButton(label, text) {
  const button = h("button", { type: "button", class: "quiet" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here: select and copy it";
    }
    say(button.textContent);
    setTimeout(() => (button.textContent = label), 2500);
  });
  return button;
}

export function problemBox(error) {
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("strong", {}, error.title),
    h("p", {}, sentence(error.message)),
    error.requestId && h("p", { class: "hint" }, "Request id ", h("code", {}, error.requestId)),
  );
}

export function loading(what) {
  return h("p", { class: "loading", role: "status" }, `Loading ${what}`);
}

export function section(title, ...content) {
  return h("section", { class: "card" }, h("h2", {}, title), content);
}

export function headers(...names) {
  return h(
    "tr",
    {},
    names.map((name) => (name ? h("th", { scope: "col" }, name) : h("td", {}))),
  );
}
