// The page of one job: what was asked, how far it is, what came out and what that proves.

import { go, link } from "./address.js";
import { Problem, download, generatorCard, get, jobPath, key, post } from "./api.js";
import { copyButton, foreign, h, headers, problemBox, say, section } from "./dom.js";
import { duration, fixed, list, milliseconds, moment, percent, points, sentence } from "./format.js";
import { classTable, timeline } from "./charts.js";
import { certificateCard } from "./certificate.js";
import { deliveriesCard } from "./deliveries.js";
import { ended, forgotten, pill } from "./home.js";

const STAGES = ["queued", "claimed", "sampling", "refining", "choosing", "measuring"];
const LOOK_AGAIN = 2_000; // milliseconds between two looks at the place in the queue

export async function showJob(root, target) {
  let job = await get(jobPath(target.job));
  const back = h("a", { class: "back", href: link({ filters: target.filters }) }, "All jobs");
  const body = h("div", { class: "job" });
  root.append(back, body);
  draw();
  const waiting = setInterval(() => job.status === "queued" && refresh(), LOOK_AGAIN);

  function draw() {
    const focused = document.activeElement?.id;
    body.replaceChildren(...parts(job));
    if (focused && body.querySelector(`#${CSS.escape(focused)}`) !== document.activeElement) {
      (body.querySelector(`#${CSS.escape(focused)}`) ?? body.querySelector("h1")).focus();
    }
  }

  function changed(now) {
    if (now.id !== job.id || (ended(job) && !ended(now))) return;
    if (JSON.stringify(now) === JSON.stringify(job)) return;
    if (now.status !== job.status) say(`Job ${now.status}`);
    if (!ended(now) || !ended(job)) {
      job = now;
      draw();
    }
  }

  async function refresh() {
    try {
      changed(await get(jobPath(job.id)));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
  }

  return {
    title: `Without ${list(forgotten(job))}`,
    changed,
    caughtUp: refresh,
    leave: () => clearInterval(waiting),
  };
}

function parts(job) {
  const found = [heading(job), actions(job)];
  if (!ended(job)) found.push(progress(job));
  if (job.error) found.push(failure(job));
  if (job.metrics && job.status === "failed") {
    found.push(h("p", { class: "muted" }, "The best candidate, which was not handed out:"));
  }
  if (job.metrics) found.push(figures(job.metrics), verdict(job));
  for (const warning of job.metrics?.prompt?.warnings ?? []) {
    found.push(h("p", { class: "notice" }, h("strong", {}, "Warning. "), warning));
  }
  if (job.metrics) {
    found.push(section("Each class", classTable(job.metrics.per_class)));
    found.push(
      h(
        "div",
        { class: "two" },
        h(
          "div",
          { class: "stack" },
          section("Time", timeline(job.metrics.timing_ms)),
          section("What the generator’s audit says", lazily(() => audit(job))),
        ),
        job.links.report && section("Candidates", lazily(() => candidates(job))),
      ),
    );
  }
  if (job.links.deliveries) found.push(section("Webhook", lazily(() => deliveriesCard(job))));
  if (job.links.certificate) found.push(section("Certificate", lazily(() => certificateCard(job))));
  found.push(section("The request", request(job)));
  return found;
}

function heading(job) {
  return h(
    "div",
    { class: "job-head" },
    h(
      "div",
      {},
      h("h1", { id: "job-title", tabindex: "-1" }, "Without ", foreign(list(forgotten(job)))),
      h(
        "p",
        { class: "muted" },
        foreign(job.generator),
        job.external_id && [" · ", foreign(job.external_id, { id: "job-reference" })],
        " · ",
        h("time", { datetime: job.created_at }, moment(job.created_at)),
      ),
    ),
    h("span", { id: "job-status", "data-job": job.id }, pill(job.status)),
  );
}

function actions(job) {
  const problems = h("div", { class: "problems" });
  const act = (id, label, action, style) => {
    const button = h("button", { id, type: "button", class: style }, label);
    button.addEventListener("click", async () => {
      if (button.disabled) return;
      button.disabled = true;
      problems.replaceChildren();
      try {
        await action();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        problems.replaceChildren(problemBox(error));
      }
      button.disabled = false;
    });
    return button;
  };
  const { weights, report, certificate, cancel } = job.links;
  const name = `${job.generator}-without-${job.forget.join("-")}`;
  return h(
    "div",
    { class: "actions" },
    weights &&
      act("get-weights", "Download weights", () => download(weights, `${name}.safetensors`), "primary"),
    weights && act("get-npz", "npz", () => download(`${weights}?format=npz`, `${name}.npz`)),
    weights && act("get-onnx", "ONNX", () => download(`${weights}?format=onnx`, `${name}.onnx`)),
    report && act("get-report", "Report", () => download(report, `${name}.json`)),
    certificate &&
      act("get-certificate", "Certificate", () => download(certificate, `${name}-certificate.json`)),
    cancel && act("cancel", "Cancel", () => post(cancel)),
    ended(job) &&
      act("retry", job.status === "succeeded" ? "Ask again" : "Retry", async () => {
        const again = await post("/unlearn", asked(job));
        go({ job: again.id });
      }),
    problems,
  );
}

function progress(job) {
  const stage = job.status === "queued" ? "queued" : job.progress.stage ?? "claimed";
  const at = STAGES.indexOf(stage);
  const place = job.queue_position;
  return h(
    "section",
    { class: "card" },
    h(
      "ol",
      { class: "stages" },
      STAGES.map((name, i) =>
        h(
          "li",
          { "data-state": i < at ? "done" : i === at ? "now" : "ahead", "aria-current": i === at && "step" },
          name,
        ),
      ),
    ),
    h("progress", { max: 1, value: job.progress.fraction, "aria-label": "Progress" }),
    job.status === "queued" &&
      h(
        "p",
        { class: "hint" },
        place ? `${place} before this one` : "Next in line. It starts as soon as a worker is free.",
      ),
  );
}

function failure(job) {
  return h(
    "div",
    { class: "notice bad" },
    h("strong", {}, job.error.title ?? "Failed"),
    h("p", {}, sentence(job.error.detail ?? "")),
  );
}

function figures(metrics) {
  const { forget, retain, retrained } = metrics;
  const known = typeof retrained.retain_accuracy === "number";
  return h(
    "dl",
    { class: "figures" },
    figure("Forget accuracy", percent(forget.accuracy), `n = ${forget.n}, loss ${fixed(forget.loss, 2)}`),
    figure("Retain accuracy", percent(retain.accuracy), `n = ${retain.n}, loss ${fixed(retain.loss, 2)}`),
    figure(
      "Retrained",
      percent(retrained.retain_accuracy),
      known ? `retained, mean of ${retrained.n} seeds, sd ${spread(retrained.sd)}` : "not measured",
    ),
    figure(
      "Gap to retrained",
      known ? points(retain.accuracy - retrained.retain_accuracy) : "–",
      "points of retain accuracy",
    ),
  );
}

const spread = (sd) => fixed(100 * sd, 1);

function figure(name, value, note) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value), h("dd", { class: "muted" }, note));
}

// What the figures of this job say, and no more than that.
function verdict({ metrics, status }) {
  const { forget, retain, retrained, candidates: drawn } = metrics;
  const words = [
    forget.accuracy === 0
      ? "None of the forgotten classes’ test images is recognised any more."
      : `${percent(forget.accuracy)} of the forgotten classes’ test images are still recognised.`,
  ];
  if (typeof retrained.retain_accuracy === "number") {
    const gap = retain.accuracy - retrained.retain_accuracy;
    words.push(
      `What is kept is recognised ${fixed(Math.abs(100 * gap), 1)} points ${gap < 0 ? "worse" : "better"} than by ` +
        `retrained networks, whose ${retrained.n} seeds spread by ${spread(retrained.sd)}; ` +
        `one test image is ${(100 / retain.n).toFixed(1)} points.`,
    );
  }
  words.push(`${drawn.accepted} of ${drawn.drawn} candidates met the requirement.`);
  const bad = forget.accuracy > 0 || (status === "succeeded" && !drawn.accepted);
  return h("p", { class: bad ? "verdict bad" : "verdict" }, words.join(" "));
}

async function candidates(job) {
  const report = await get(job.links.report);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Candidates, validation split" },
    h(
      "table",
      {},
      h("caption", {}, "On the validation split, on which the best was chosen"),
      h("thead", {}, headers("#", "Forget", "Retain", "Loss", "")),
      h(
        "tbody",
        {},
        report.candidates.map((one) =>
          h(
            "tr",
            { "data-chosen": one.index === report.chosen },
            h("th", { scope: "row" }, one.index),
            h("td", {}, percent(one.forget_accuracy)),
            h("td", {}, percent(one.retain_accuracy)),
            h("td", {}, fixed(one.retain_loss)),
            h("td", {}, one.accepted ? one.index === report.chosen && "chosen" : "rejected"),
          ),
        ),
      ),
    ),
  );
}

async function audit(job) {
  const card = await generatorCard(job.generator);
  return auditTable(card.audit);
}

const AUDITED = [
  ["Retain accuracy", (row) => percent(row.retain_accuracy?.mean)],
  ["Forget accuracy, mean", (row) => percent(row.forget_accuracy?.mean)],
  ["Forget accuracy, worst", (row) => percent(row.forget_accuracy?.max)],
  ["After 4 relearning steps", (row) => percent(row.forget_accuracy_after_4_relearning_steps)],
  ["Loss-MIA AUC (0.5 is chance)", (row) => fixed(row.loss_mia_auc)],
];

export function auditTable(found) {
  const { retrained, dihyfo } = found.rows;
  return h(
    "div",
    {},
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": "Audit figures" },
      h(
        "table",
        {},
        h("thead", {}, headers("", "Retrained", "Drawn")),
        h(
          "tbody",
          {},
          AUDITED.map(([name, of]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, name),
              h("td", {}, of(retrained)),
              h("td", {}, of(dihyfo)),
            ),
          ),
        ),
      ),
    ),
    h(
      "p",
      { class: "hint" },
      `Of other samples of this generator: ${dihyfo.networks} forget sets that it never trained on, ` +
        `${found.split} split, ${found.sample}.`,
    ),
    ["under", "over", "distribution"].map((side) => {
      const said = found.verdicts?.dihyfo?.[side];
      return said && h("p", { class: said.found ? "verdict bad" : "verdict" }, said.words);
    }),
  );
}

function request(job) {
  const { request_id: requestId, ...rest } = job.request;
  const rows = [["Forget", foreign(list(forgotten(job)))]];
  for (const [name, value] of Object.entries(rest)) {
    if (value !== null) rows.push([name.replaceAll("_", " "), foreign(text(value))]);
  }
  if (job.external_id) rows.push(["your reference", foreign(job.external_id)]);
  rows.push(["job", h("code", {}, job.id)]);
  if (requestId) rows.push(["request id", h("code", {}, requestId)]);
  if (job.finished_at) {
    const seconds = (Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1e3;
    rows.push(["from request to end", seconds < 1 ? milliseconds(1e3 * seconds) : duration(seconds)]);
  }
  const command = curl(job);
  return h(
    "div",
    {},
    h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h(
      "div",
      { class: "code" },
      h("pre", { tabindex: "0", "aria-label": "The same request with curl" }, h("code", { id: "curl" }, command)),
      copyButton("Copy as curl", command),
    ),
  );
}

const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

// The body that asks for the same again.
function asked(job) {
  const { request_id: _, ...rest } = job.request;
  const given = { forget: job.forget, generator: job.generator, ...rest };
  if (job.external_id) given.external_id = job.external_id;
  if (job.callback_url) given.callback_url = job.callback_url;
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

function curl(job) {
  const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -X POST ${quoted(`${location.origin}/unlearn`)}`];
  if (key.get()) lines.push('-H "Authorization: Bearer $HYPERFORGET_API_KEY"');
  lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(asked(job)))}`);
  return lines.join(" \\\n  ");
}

// What is fetched after the page is there; a failure stays where it happened.
function lazily(make) {
  const place = h("div", {}, h("p", { class: "loading" }, "Loading"));
  make()
    .then((made) => place.replaceChildren(made))
    .catch((error) => {
      if (!(error instanceof Problem)) throw error;
      place.replaceChildren(problemBox(error));
    });
  return place;
}
