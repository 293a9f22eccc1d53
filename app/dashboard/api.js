// Speaks to the service. The API key lives in this tab alone and travels in a header only.

const STORED = "hyperforget-api-key";

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  clear: () => sessionStorage.removeItem(STORED),
};

// An answer that is no success, or none at all (status 0).
export class Problem extends Error {
  constructor(status, said, requestId) {
    super(said.detail || "The service gave no reason.");
    this.status = status;
    this.title = TITLES[status] || said.title || "That did not work";
    this.fields = said.errors || [];
    this.requestId = requestId;
  }
}

const TITLES = {
  0: "The service can't be reached",
  401: "This needs an API key",
  403: "This API key may not do that",
  404: "There is no such thing",
  429: "Too much at once",
};

export async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, redirect: "error", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "It may be down or restarting; try again in a moment." });
  }
  if (answer.ok || options.anyStatus) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, said, answer.headers.get("X-Request-ID"));
}

export const get = async (path, signal) => (await send(path, { signal })).json();

export async function post(path, body) {
  const headers = { "Idempotency-Key": random() };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await send(path, {
    method: "POST",
    headers,
    body: body && JSON.stringify(body),
  });
  return answer.json();
}

export function jobPath(id, part = "") {
  return `/jobs/${encodeURIComponent(id)}${part}`;
}

// Saves a file of the service under the name that the service gives it.
export async function download(path, fallback) {
  const answer = await send(path);
  const named = /filename="([\w.-]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const url = URL.createObjectURL(await answer.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = named ? named[1] : fallback;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

let generators;

// All generators, asked for once.
export async function allGenerators(fresh = false) {
  if (!generators || fresh) generators = (await get("/generators")).items;
  return generators;
}

const cards = new Map();

// Drops what was seen with a key.
export function dropSeen() {
  generators = undefined;
  cards.clear();
}

export async function generatorCard(id) {
  if (!cards.has(id)) cards.set(id, await get(`/generators/${encodeURIComponent(id)}`));
  return cards.get(id);
}

export function className(generator, label) {
  const known = generators?.find((one) => one.id === generator)?.classes;
  return known?.find((one) => one.label === label)?.name ?? String(label);
}

function random() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID needs https
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
