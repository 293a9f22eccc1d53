// The form that asks for weights. The service is the judge of what is right: a field that it
// refuses gets the service's own words beside it.

import { Problem, generatorCard, post } from "./api.js";
import { count, sentence } from "./format.js";
import { foreign, h, problemBox, say } from "./dom.js";
import { go } from "./address.js";

export function requestForm(generators) {
  const usable = generators.filter((one) => one.available !== false);
  const chosen = usable.find((one) => one.default) ?? usable[0];
  if (!chosen) {
    return h(
      "section",
      { class: "card request" },
      h("h2", {}, "Forget classes"),
      h(
        "div",
        { class: "empty" },
        h("p", {}, generators.length ? "No generator is served at present." : "There is no generator yet."),
        h("a", { href: "/?view=generators" }, "See how to get one"),
      ),
    );
  }
  const tiles = h("div", { class: "tiles" });
  const summary = h("p", { class: "hint", role: "status" });
  const problems = h("div", {});
  const aims = h("div", {});
  const submit = h("button", { type: "submit", class: "primary wide" }, "Forget");
  const generator = h(
    "select",
    { id: "field-generator", name: "generator", "aria-describedby": "error-generator" },
    generators.map((one) =>
      h(
        "option",
        { value: one.id, selected: one === chosen, disabled: one.available === false },
        one.available === false ? `${one.id} (not served)` : one.id,
      ),
    ),
  );
  const aim = h(
    "select",
    { id: "field-prompt", "aria-describedby": "error-prompt" },
    h("option", { value: "" }, "As if retrained"),
    h("option", { value: "sides" }, "Losses of the two sides"),
    h("option", { value: "classes" }, "Losses of single classes"),
  );
  const advanced = h(
    "details",
    {},
    h("summary", {}, "Advanced"),
    h(
      "div",
      { class: "fields" },
      number("candidates", "Candidates", "8", "Weight sets drawn; the best on validation is kept."),
      number("seed", "Seed", "random", "Of the noise. Recorded either way."),
      number("refine_steps", "Refining steps", "the generator’s", "0 switches refining off."),
      number("deadline_seconds", "Deadline, seconds", "none", "It fails if it has not ended then."),
      number("require.max_forget_accuracy", "Most forget accuracy", "no gate", "0 to 1, on validation."),
      number("require.min_retain_accuracy", "Least retain accuracy", "no gate", "0 to 1, on validation."),
    ),
    field("prompt", "Aim", aim),
    aims,
    field(
      "callback_url",
      "Tell when it ends",
      h("input", {
        id: "field-callback_url",
        name: "callback_url",
        type: "url",
        autocomplete: "off",
        placeholder: "https://",
        "aria-describedby": "error-callback_url",
      }),
      "The job's end is posted there, signed. A public https address.",
    ),
  );
  const form = h(
    "form",
    { class: "card request", novalidate: true, "aria-labelledby": "request-title" },
    h("h2", { id: "request-title" }, "Forget classes"),
    h("p", { class: "muted" }, "Get the weights of a classifier that never learned them."),
    field("generator", "Generator", generator),
    h(
      "fieldset",
      { id: "field-forget", "aria-describedby": "error-forget", tabindex: "-1" },
      h("legend", {}, "Classes to forget"),
      tiles,
      h("p", { id: "error-forget", class: "error" }),
    ),
    summary,
    field(
      "external_id",
      "Your reference",
      h("input", {
        id: "field-external_id",
        name: "external_id",
        autocomplete: "off",
        placeholder: "optional, such as a ticket",
        "aria-describedby": "error-external_id",
      }),
    ),
    advanced,
    problems,
    submit,
  );

  const current = () => generators.find((one) => one.id === generator.value);
  const ticked = () => [...tiles.querySelectorAll("input:checked")].map((box) => Number(box.value));

  function tally() {
    const all = current().classes.length;
    const forget = ticked().length;
    submit.textContent = forget ? `Forget ${count(forget, "class", "classes")}` : "Forget";
    summary.textContent = forget ? `${forget} of ${all} to forget, ${all - forget} to keep` : `${all} classes`;
  }

  function drawTiles() {
    tiles.replaceChildren(
      ...current().classes.map(({ label, name }) =>
        h(
          "label",
          { class: "tile" },
          h("input", { type: "checkbox", name: "forget", value: label }),
          h("span", {}, foreign(name), name !== String(label) && h("small", {}, label)),
        ),
      ),
    );
    tally();
  }

  async function drawAims() {
    aims.replaceChildren();
    if (!aim.value) return;
    const card = await generatorCard(generator.value);
    if (!card.prompts) {
      aims.append(h("p", { class: "hint" }, "This generator was trained without prompts."));
      return;
    }
    const { retained, forgotten } = card.prompts;
    const range = (ends) => ends.map((end) => Number(end.toPrecision(2))).join(" to ");
    const hint =
      `Nats. Seen in training: ${range(retained)} for what is kept, ` +
      `${range(forgotten)} for what is forgotten.`;
    const fields =
      aim.value === "sides"
        ? [
            number("prompt.retain_loss", "Loss, kept", "free"),
            number("prompt.forget_loss", "Loss, forgotten", "free"),
          ]
        : card.classes.map((one) => number(`prompt.class_losses.${one.label}`, one.name, "free"));
    aims.append(h("p", { class: "hint" }, hint), h("div", { class: "fields" }, fields));
  }

  generator.addEventListener("change", () => {
    drawTiles();
    drawAims();
  });
  aim.addEventListener("change", drawAims);
  tiles.addEventListener("change", tally);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    clear();
    if (!ticked().length) {
      explain({ fields: [{ field: "forget", detail: "Tick at least one class." }] });
      return;
    }
    submit.disabled = true;
    try {
      const job = await post("/unlearn", body(form, generator.value, ticked(), aim.value));
      say("Job recorded");
      go({ job: job.id });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      explain(error);
    } finally {
      submit.disabled = false;
    }
  });

  function clear() {
    problems.replaceChildren();
    for (const message of form.querySelectorAll(".error")) message.textContent = "";
    for (const one of form.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
  }

  // Puts each complaint beside its field, and what has no field below them all.
  function explain(error) {
    let first = null;
    let placed = 0;
    for (const { field: path, detail } of error.fields) {
      const name = nearest(path);
      if (!name) continue;
      placed += 1;
      const message = document.getElementById(`error-${name}`);
      message.textContent += `${message.textContent ? " " : ""}${sentence(detail)}`;
      const control = document.getElementById(`field-${name}`);
      control.setAttribute("aria-invalid", "true");
      first ??= control;
    }
    if (!placed || placed < error.fields.length) problems.append(problemBox(error));
    if (first) {
      if (advanced.contains(first)) advanced.open = true;
      (first.matches("fieldset") ? first.querySelector("input") : first)?.focus();
      say("The request was refused; see the marked field");
    }
  }

  function nearest(path) {
    for (const parts = path.split("."); parts.length; parts.pop()) {
      const name = parts.join(".");
      if (document.getElementById(`error-${name}`)) return name;
    }
    return null;
  }

  drawTiles();
  return form;
}

function body(form, generator, forget, aim) {
  const given = { forget, generator };
  const external = form.elements.external_id.value;
  if (external) given.external_id = external;
  const callback = form.elements.callback_url.value.trim();
  if (callback) given.callback_url = callback;
  for (const input of form.querySelectorAll("input[data-number]")) {
    if (!input.value.trim()) continue;
    const path = input.name.split(".");
    if (path[0] === "prompt" && !aim) continue;
    let place = given;
    for (const part of path.slice(0, -1)) place = place[part] ??= {};
    place[path.at(-1)] = value(input.value);
  }
  if (aim && !given.prompt) given.prompt = {};
  return given;
}

// A number if it is one; else the text itself, which the service refuses with a reason.
function value(text) {
  const read = Number(text);
  return Number.isFinite(read) ? read : text;
}

function field(name, label, control, hint) {
  return h(
    "div",
    { class: "field" },
    h("label", { for: `field-${name}` }, foreign(label)),
    control,
    hint && h("p", { class: "hint", id: `hint-${name}` }, hint),
    h("p", { id: `error-${name}`, class: "error" }),
  );
}

function number(name, label, placeholder, hint) {
  const described = hint ? `hint-${name} error-${name}` : `error-${name}`;
  const input = h("input", {
    id: `field-${name}`,
    name,
    "data-number": true,
    inputmode: "decimal",
    autocomplete: "off",
    placeholder,
    "aria-describedby": described,
  });
  return field(name, label, input, hint);
}
