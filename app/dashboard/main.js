// Shows what the address names, and hands it live changes.

import { follow } from "./stream.js";
import { Problem, allGenerators, dropSeen, key } from "./api.js";
import { read } from "./address.js";
import { h, say } from "./dom.js";
import { sentence } from "./format.js";
import { showJob } from "./job.js";
import { showHome } from "./home.js";
import { showGenerators } from "./generators.js";
import { showService } from "./service.js";

const VIEWS = { jobs: showHome, job: showJob, generators: showGenerators, service: showService };
const main = document.getElementById("main");
const live = document.getElementById("live");
let view = null; // what is shown: {title, changed(job), caughtUp(jobs), filter(filters), leave()}, all optional
let shown = null; // its address
let stopStream = null;

// -- moving about ---------------------------------------------------------------------

async function show(byUser) {
  const target = read();
  const same = shown && shown.view === target.view && shown.job === target.job;
  if (same && view?.filter) {
    view.filter(target.filters);
    return;
  }
  view?.leave?.();
  const mine = {};
  view = mine;
  shown = target;
  mark(target.view);
  const page = h("div", { class: "page" });
  main.replaceChildren(page);
  try {
    await allGenerators();
    if (view !== mine) return;
    const made = await (VIEWS[target.view] ?? missing)(page, target);
    if (view !== mine) return made?.leave?.();
    Object.assign(mine, made);
    document.title = `${mine.title} · HyperForget`;
  } catch (error) {
    if (view !== mine) return;
    fail(page, error);
    if (error.status === 401) return;
  }
  startStream();
  if (byUser) {
    scrollTo(0, 0);
    const heading = main.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    (heading ?? main).focus({ preventScroll: true });
  }
}

function fail(page, error) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401) askForKey(error);
  page.replaceChildren(
    h("h1", {}, error.title),
    h("p", { role: "alert" }, sentence(error.message)),
    ...(error.requestId
      ? [h("p", { class: "hint" }, "Request id ", h("code", {}, error.requestId))]
      : []),
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", onclick: () => reload() }, "Try again"),
      h("a", { class: "button", href: "/" }, "All jobs"),
    ),
  );
  document.title = `${error.title} · HyperForget`;
}

function reload() {
  shown = null;
  show(false);
}

function missing(page) {
  page.append(
    h("h1", {}, "No such page"),
    h("p", {}, h("a", { href: "/" }, "Go to the jobs")),
  );
  return { title: "No such page" };
}

function mark(name) {
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    const here = link.dataset.view === (name === "job" ? "jobs" : name);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || to.pathname !== "/" || to.hash) return;
  event.preventDefault();
  history.pushState({}, "", to.pathname + to.search);
  show(true);
});
addEventListener("popstate", () => show(true));
addEventListener("moved", () => show(true));

// -- live -----------------------------------------------------------------------------

function startStream() {
  if (stopStream || document.hidden) return;
  const stop = follow({
    event(name, data) {
      if (name === "job") view?.changed?.(data);
      if (name === "snapshot") view?.caughtUp?.(data.items); // what was missed meanwhile
    },
    state(now) {
      if (now === "live") setLive("Live", "on");
      else setLive("Reconnecting", "off");
    },
    refused(problem) {
      stopStream = null;
      setLive(problem.status === 403 ? "Not live: key lacks jobs:read" : "Not signed in", "off");
      if (problem.status === 401 && !dialog.open) askForKey(problem); // revoked meanwhile
    },
  });
  stopStream = () => {
    stop();
    stopStream = null;
  };
}

function setLive(text, state) {
  if (live.textContent === text) return;
  live.textContent = text;
  live.dataset.state = state;
}

// Browsers allow few connections to one place: a tab that nobody sees holds none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stopStream?.();
  else startStream();
});

// -- the API key ----------------------------------------------------------------------

const dialog = document.getElementById("key-dialog");
const input = document.getElementById("key-input");
const keyButton = document.getElementById("key-button");

function askForKey(problem) {
  document.getElementById("key-reason").textContent = key.get()
    ? "The service does not know this key, or it was revoked."
    : "This service answers only to those who have a key.";
  document.getElementById("key-error").textContent = key.get() ? problem.message : "";
  key.clear();
  keyButton.hidden = true;
  if (!dialog.open) dialog.showModal();
  input.value = "";
  input.focus();
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  const given = input.value.trim();
  input.value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    event.preventDefault();
    document.getElementById("key-error").textContent = "A key looks like hf_… and has no spaces.";
    return;
  }
  key.set(given);
  keyButton.hidden = false;
  stopStream?.();
  reload();
});

keyButton.addEventListener("click", () => {
  key.clear();
  stopStream?.();
  keyButton.hidden = true;
  dropSeen();
  say("Signed out");
  history.replaceState({}, "", "/");
  reload();
});

keyButton.hidden = !key.get();
show(false);
