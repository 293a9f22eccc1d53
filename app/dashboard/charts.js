// Drawings that are also tables: the numbers stand beside the bars, for every reader.

import { foreign, h, headers } from "./dom.js";
import { milliseconds, percent } from "./format.js";

const SERIES = [
  ["before", "Before", "original_accuracy"],
  ["after", "Unlearned", "accuracy"],
  ["retrained", "Retrained", "retrained_accuracy"],
];

export function classTable(classes) {
  return h(
    "div",
    { class: "classes" },
    h(
      "ul",
      { class: "legend", "aria-hidden": "true" },
      SERIES.map(([kind, name]) => h("li", { "data-kind": kind }, name)),
    ),
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, "Accuracy on the test split, by class"),
      h("thead", {}, headers("Class", "", ...SERIES.map(([, name]) => name))),
      h("tbody", {}, classes.map(classRow)),
    ),
  );
}

function classRow(one) {
  return h(
    "tr",
    { "data-forgotten": one.forgotten },
    h(
      "th",
      { scope: "row" },
      foreign(one.name),
      one.forgotten && h("span", { class: "tag" }, "forgotten"),
      h("small", { class: "muted" }, ` n = ${one.n}`),
    ),
    h(
      "td",
      { class: "bars", "aria-hidden": "true" },
      SERIES.map(([kind, , field]) => bar(kind, one[field])),
    ),
    SERIES.map(([kind, , field]) => h("td", { "data-kind": kind }, percent(one[field]))),
  );
}

function bar(kind, share) {
  const element = h("span", { class: "bar", "data-kind": kind });
  element.style.setProperty("--share", share ?? 0);
  return element;
}

const ORDER = ["queued", "sampling", "refining", "evaluating", "storing"];

export function timeline(times) {
  const stages = ORDER.filter((name) => name in times);
  const total = stages.reduce((sum, name) => sum + times[name], 0);
  const strip = h(
    "div",
    { class: "strip", "aria-hidden": "true" },
    stages.map((name) => {
      const part = h("span", { "data-stage": name });
      part.style.setProperty("--grow", times[name]);
      return part;
    }),
  );
  const rows = stages.map((name) =>
    h(
      "li",
      { "data-stage": name },
      h("span", {}, name),
      h("span", { class: "number" }, milliseconds(times[name])),
    ),
  );
  return h(
    "div",
    { class: "timeline" },
    strip,
    h("ol", {}, rows),
    h("p", { class: "hint" }, `${milliseconds(total)} in all. A stage is shared by the jobs of one batch.`),
  );
}
