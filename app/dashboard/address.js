// What is shown is in the address: bookmarks, reload and the back button lead to the same.

export const FILTERS = ["status", "generator", "external_id"];

export function read() {
  const query = new URLSearchParams(location.search);
  const filters = {};
  for (const name of FILTERS) if (query.get(name)) filters[name] = query.get(name);
  if (query.get("job")) return { view: "job", job: query.get("job"), filters };
  return { view: query.get("view") || "jobs", filters };
}

export function link({ view, job, filters = {} }) {
  const query = new URLSearchParams(filters);
  if (job) query.set("job", job);
  else if (view && view !== "jobs") query.set("view", view);
  return query.size ? `/?${query}` : "/";
}

export function go(target, replace = false) {
  history[replace ? "replaceState" : "pushState"]({}, "", link(target));
  dispatchEvent(new Event("moved"));
}
