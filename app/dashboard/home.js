// The first page: ask for weights, and watch the jobs.

import { FILTERS, go, link } from "./address.js";
import { Problem, allGenerators, className, get } from "./api.js";
import { ago, list, moment, percent, points } from "./format.js";
import { foreign, h, loading, problemBox } from "./dom.js";
import { requestForm } from "./request.js";

const PAGE = 25;
const STATUSES = ["queued", "running", "succeeded", "failed", "canceled"];
const MOST = 1_000; // rows kept while new jobs come in
const EDITED = 350; // milliseconds without a key pressed until a filter is applied

export async function showHome(root, target) {
  const generators = await allGenerators();
  const jobs = jobList(target.filters, generators);
  root.append(
    h("h1", { class: "unseen" }, "Jobs"),
    h("div", { class: "home" }, requestForm(generators), jobs.element),
  );
  await jobs.load();
  const clock = setInterval(jobs.tick, 10_000);
  return {
    title: "Jobs",
    changed: jobs.changed,
    caughtUp: jobs.caughtUp,
    filter: jobs.filter,
    leave: () => clearInterval(clock),
  };
}

function jobList(initial, generators) {
  let filters = initial;
  let rows = new Map(); // id -> {job, element}
  let next = null;
  let loads = 0;
  const items = h("ul", { class: "jobs" });
  const status = h("div", {});
  const older = h("button", { type: "button", class: "wide", hidden: true }, "Show older jobs");
  const controls = filterControls(generators, (changed, typed) =>
    go({ view: "jobs", filters: changed }, typed),
  );
  const element = h(
    "section",
    { class: "list", "aria-labelledby": "jobs-title" },
    h("div", { class: "list-head" }, h("h2", { id: "jobs-title" }, "Jobs"), controls.element),
    status,
    items,
    older,
  );
  controls.set(filters);

  const query = (cursor) => {
    const asked = new URLSearchParams({ ...filters, limit: PAGE });
    if (cursor) asked.set("cursor", cursor);
    return get(`/jobs?${asked}`);
  };

  async function load() {
    const mine = ++loads;
    if (!rows.size) status.replaceChildren(loading("jobs"));
    try {
      const page = await query();
      if (mine !== loads) return;
      rows = new Map();
      items.replaceChildren();
      for (const job of page.items) items.append(row(job));
      next = page.next;
      settle();
    } catch (error) {
      if (mine !== loads) return;
      items.replaceChildren();
      rows = new Map();
      older.hidden = true;
      if (!(error instanceof Problem) || error.status === 401) throw error;
      status.replaceChildren(problemBox(error));
    }
  }

  older.addEventListener("click", async () => {
    older.disabled = true;
    try {
      const page = await query(next);
      const first = items.childElementCount;
      for (const job of page.items) if (!rows.has(job.id)) items.append(row(job));
      next = page.next;
      settle();
      items.children[first]?.querySelector("a")?.focus();
    } catch (error) {
      status.replaceChildren(problemBox(error));
    }
    older.disabled = false;
  });

  function row(job) {
    const made = jobRow(job, filters);
    rows.set(job.id, { job, element: made });
    return made;
  }

  function settle() {
    older.hidden = !next;
    status.replaceChildren();
    if (!rows.size) status.append(empty(filters));
  }

  const wanted = (job) => FILTERS.every((name) => !filters[name] || job[name] === filters[name]);

  function changed(job) {
    const known = rows.get(job.id);
    if (known && ended(known.job) && !ended(job)) return; // older news than what is shown
    if (!wanted(job)) {
      known?.element.remove();
      rows.delete(job.id);
    } else if (known) {
      const focused = known.element.contains(document.activeElement);
      const fresh = jobRow(job, filters);
      known.element.replaceWith(fresh);
      rows.set(job.id, { job, element: fresh });
      if (focused) fresh.querySelector("a").focus();
    } else {
      const newest = rows.size ? items.firstElementChild.dataset.created : "";
      const made = row(job);
      if (job.created_at >= newest) {
        made.classList.add("fresh");
        items.prepend(made);
        if (rows.size > MOST) load().catch(() => {});
      } else {
        place(made, job.created_at);
      }
    }
    settle();
  }

  // The newest jobs, newest first, after a time without news. Rows stay where they are, unless
  // too much happened to tell how it all follows on.
  function caughtUp(newest) {
    const those = newest.filter(wanted);
    const seen = new Set(newest.map((job) => job.id));
    const first = those.findIndex((job) => rows.has(job.id));
    const stale = [...rows.values()].some(({ job }) => !ended(job) && !seen.has(job.id));
    if (stale || (first < 0 && (those.length || rows.size))) {
      load().catch(() => {});
      return;
    }
    for (const job of those.slice(0, Math.max(first, 0)).reverse()) changed(job);
    for (const job of newest) if (rows.has(job.id)) changed(job);
  }

  // A job that now meets the filters goes where its age belongs; past the last page it is left out.
  function place(made, created) {
    const after = [...items.children].find((one) => one.dataset.created < created);
    if (after) after.before(made);
    else if (!next) items.append(made);
    else rows.delete(made.dataset.id);
  }

  function tick() {
    for (const time of items.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  }

  function filter(changedFilters) {
    filters = changedFilters;
    controls.set(filters);
    rows = new Map();
    items.replaceChildren();
    load();
  }

  return { element, load, changed, caughtUp, tick, filter };
}

export const ended = (job) => ["succeeded", "failed", "canceled"].includes(job.status);

export function pill(status) {
  return h("span", { class: "pill", "data-status": status }, status);
}

export const forgotten = (job) => job.forget.map((label) => className(job.generator, label));

function jobRow(job, filters) {
  const metrics = job.status === "succeeded" ? job.metrics : null;
  const retrained = metrics?.retrained?.retain_accuracy;
  return h(
    "li",
    { "data-id": job.id, "data-created": job.created_at, "data-status": job.status },
    h(
      "a",
      { href: link({ job: job.id, filters }) },
      pill(job.status),
      h(
        "span",
        { class: "what" },
        h("span", { class: "name" }, "Without ", foreign(list(forgotten(job)))),
        h(
          "span",
          { class: "muted" },
          foreign(job.generator),
          job.external_id && [" · ", foreign(job.external_id)],
        ),
      ),
      h(
        "span",
        { class: "figure" },
        metrics && h("span", {}, `${percent(metrics.retain.accuracy)} retained`),
        typeof retrained === "number" &&
          h("span", { class: "muted" }, `${points(metrics.retain.accuracy - retrained)} pt to retrained`),
        job.status === "running" && h("span", { class: "muted" }, job.progress.stage),
        job.status === "failed" && h("span", { class: "muted" }, job.error?.title),
      ),
      h(
        "time",
        { class: "muted", datetime: job.created_at, title: moment(job.created_at) },
        ago(job.created_at),
      ),
    ),
    job.status === "running" &&
      h("progress", { max: 1, value: job.progress.fraction, "aria-label": "Progress" }),
  );
}

function empty(filters) {
  if (Object.keys(filters).length) {
    return h(
      "div",
      { class: "empty" },
      h("p", {}, "No job matches these filters."),
      h("a", { href: "/" }, "Clear the filters"),
    );
  }
  return h(
    "div",
    { class: "empty" },
    h("p", {}, h("strong", {}, "Nothing forgotten yet")),
    h("p", { class: "muted" }, "Tick a class and press Forget. The weights are here in a moment."),
  );
}

function filterControls(generators, apply) {
  const status = select("status", "All states", STATUSES);
  const generator = select("generator", "All generators", generators.map((one) => one.id));
  const external = h("input", {
    type: "search",
    name: "external_id",
    id: "filter-external_id",
    placeholder: "Reference",
    maxlength: 200,
    autocomplete: "off",
  });
  const fields = { status, generator, external_id: external };
  const changed = (typed = false) => {
    const filters = {};
    for (const [name, field] of Object.entries(fields)) if (field.value) filters[name] = field.value;
    apply(filters, typed);
  };
  let editing;
  status.addEventListener("change", () => changed());
  generator.addEventListener("change", () => changed());
  external.addEventListener("input", () => {
    clearTimeout(editing);
    editing = setTimeout(changed, EDITED, true);
  });
  const element = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter jobs", onsubmit: (e) => e.preventDefault() },
    h("label", { class: "unseen", for: "filter-status" }, "State"),
    status,
    h("label", { class: "unseen", for: "filter-generator" }, "Generator"),
    generator,
    h("label", { class: "unseen", for: "filter-external_id" }, "Your reference, exactly"),
    external,
  );
  const set = (filters) => {
    for (const [name, field] of Object.entries(fields)) {
      if (field.value !== (filters[name] ?? "")) field.value = filters[name] ?? "";
    }
  };
  return { element, set };
}

function select(name, all, values) {
  return h(
    "select",
    { name, id: `filter-${name}` },
    h("option", { value: "" }, all),
    values.map((value) => h("option", { value }, value)),
  );
}
