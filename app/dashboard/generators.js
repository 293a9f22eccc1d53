// What can be unlearned from, each with its card.

import { Problem, allGenerators, generatorCard } from "./api.js";
import { auditTable } from "./job.js";
import { copyButton, foreign, h, problemBox } from "./dom.js";
import { count, percent } from "./format.js";

export async function showGenerators(root) {
  const generators = await allGenerators(true);
  root.append(
    h("h1", {}, "Generators"),
    h("p", { class: "lead" }, "Each draws weights for one classifier and one data set."),
    generators.length ? h("div", { class: "cards" }, await Promise.all(generators.map(card))) : empty(),
  );
  return { title: "Generators" };
}

function empty() {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, h("strong", {}, "There is no generator yet")),
    h("p", { class: "muted" }, "Build one: ", h("code", {}, "hyperforget train digits-mlp")),
  );
}

async function card(summary) {
  const head = h(
    "div",
    { class: "card-head" },
    h("h2", {}, foreign(summary.id)),
    summary.default && h("span", { class: "tag" }, "default"),
    availability(summary),
  );
  try {
    return h("section", { class: "card" }, head, unavailable(summary), facts(await generatorCard(summary.id)));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return h("section", { class: "card" }, head, problemBox(error));
  }
}

function availability({ available }) {
  if (available === null) return h("span", { class: "pill", "data-status": "queued" }, "no worker is up");
  if (available) return h("span", { class: "pill", "data-status": "succeeded" }, "served");
  return h("span", { class: "pill", "data-status": "failed" }, "not served");
}

function unavailable(summary) {
  if (summary.available !== false) return null;
  return h(
    "div",
    { class: "notice" },
    h("p", {}, foreign(summary.unavailable_because)),
    h(
      "p",
      { class: "hint" },
      "Workers load data at their start: put it into ",
      h("code", {}, "HYPERFORGET_DATA"),
      " and start them again.",
    ),
  );
}

function facts(one) {
  const { classifier, dataset, reference, training } = one;
  const shape = (classifier.layers ?? []).join("–") || classifier.kind;
  const rows = [
    ["Classes", foreign(names(one.classes))],
    ["Classifier", `${classifier.kind} ${shape}, ${classifier.parameters.toLocaleString("en")} weights`],
    ["Data", foreign(`${dataset.name}: ${split(dataset.n)}`)],
    ["Before, all classes", `${percent(reference.original_accuracy)} on ${reference.n_test} test images`],
    [
      "Retrained, kept classes",
      `${percent(reference.retrained_retain_accuracy)}, mean of ` +
        `${count(reference.forget_sets, "forget set")} × ${count(reference.seeds.length, "seed")}`,
    ],
    ["Trained on", `${training.networks.toLocaleString("en")} networks, ${one.held_out.length} forget sets held out`],
    ["Prompts", one.prompts ? "understood" : "trained without"],
    ["Digest", h("code", {}, one.digest)],
  ];
  return h(
    "div",
    { class: "two" },
    h(
      "div",
      {},
      h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      copyButton("Copy digest", one.digest),
    ),
    h("div", {}, h("h3", {}, "Audit: retrained networks and drawn ones"), auditTable(one.audit)),
  );
}

const split = (n) => Object.entries(n).map(([name, size]) => `${size.toLocaleString("en")} ${name}`).join(", ");

function names(classes) {
  const plain = classes.every(({ label, name }) => name === String(label));
  return plain ? `${classes[0].name} to ${classes.at(-1).name}` : classes.map((one) => one.name).join(", ");
}
