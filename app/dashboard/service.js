// Is the service well, how much waits, who works.

import { Problem, get, send } from "./api.js";
import { foreign, h, headers, problemBox, section } from "./dom.js";
import { duration } from "./format.js";

const LOOK_AGAIN = 5_000; // milliseconds

export async function showService(root) {
  const place = h("div", { class: "stack" });
  root.append(h("h1", {}, "Service"), place);
  const refresh = async () => place.replaceChildren(...(await parts()));
  await refresh();
  const timer = setInterval(() => document.hidden || refresh(), LOOK_AGAIN);
  return { title: "Service", leave: () => clearInterval(timer) };
}

async function parts() {
  try {
    const ready = await (await send("/readyz", { anyStatus: true })).json();
    const queue = await get("/queue");
    return [health(ready), waiting(queue.jobs), workers(queue.workers)];
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return [problemBox(error)];
  }
}

function health(ready) {
  return section(
    ready.ready ? "Ready" : "Not ready",
    h(
      "ul",
      { class: "parts" },
      Object.entries(ready.parts).map(([name, said]) =>
        h(
          "li",
          {},
          h("span", { class: "pill", "data-status": said === "ok" ? "succeeded" : "failed" }, name),
          said !== "ok" && h("span", { class: "muted" }, foreign(said)),
        ),
      ),
    ),
  );
}

function waiting(jobs) {
  if (!jobs.length) return section("Queue", h("p", { class: "muted" }, "Nothing waits and nothing runs."));
  return section(
    "Queue",
    table(
      ["Generator", "Queued", "Running", "Oldest waits"],
      jobs.map((row) => [foreign(row.generator), row.queued, row.running, duration(row.oldest_queued_seconds)]),
    ),
    h("p", { class: "hint" }, "All tenants together."),
  );
}

function workers(live) {
  if (!live.length) {
    return section("Workers", h("p", { class: "muted" }, "None is up: start one with ", h("code", {}, "hyperforget worker"), "."));
  }
  return section(
    "Workers",
    table(
      ["Worker", "Serves", "Up for", "Heard of"],
      live.map((one) => [
        foreign(one.id),
        h("span", {}, Object.entries(one.generators).map(([name, reason]) => served(name, reason))),
        duration(one.up_seconds),
        `${duration(one.seen_seconds_ago)} ago`,
      ]),
    ),
  );
}

function served(name, reason) {
  return h(
    "span",
    { class: "served" },
    foreign(name),
    reason !== null && h("small", { class: "muted" }, " not: ", foreign(reason)),
  );
}

function table(names, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": names[0] },
    h(
      "table",
      {},
      h("thead", {}, headers(...names)),
      h(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          h("tr", {}, h("th", { scope: "row" }, first), rest.map((value) => h("td", {}, value))),
        ),
      ),
    ),
  );
}
