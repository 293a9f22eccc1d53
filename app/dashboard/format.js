// Numbers and times as text.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const absolute = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const absent = (value) => value === null || value === undefined || Number.isNaN(value);

export const percent = (share) => (absent(share) ? "–" : `${(100 * share).toFixed(1)}%`);
export const fixed = (value, digits = 3) => (absent(value) ? "–" : value.toFixed(digits));

// A difference of two shares in percentage points, with its sign.
export function points(difference) {
  if (absent(difference)) return "–";
  const rounded = (100 * difference).toFixed(1);
  return Number(rounded) === 0 ? "0.0" : `${difference < 0 ? "−" : "+"}${rounded.replace("-", "")}`;
}

export function milliseconds(ms) {
  if (absent(ms)) return "–";
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  return ms < 9_950 ? `${Math.round(ms)} ms` : duration(ms / 1e3);
}

export function duration(seconds) {
  if (absent(seconds)) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function ago(time) {
  const seconds = (Date.parse(time) - Date.now()) / 1e3;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return relative.format(Math.round(seconds / size), unit);
  }
  return seconds > -5 ? "now" : relative.format(Math.round(seconds), "second");
}

export const moment = (time) => absolute.format(new Date(time));
// What the service says in passing, as a sentence.
export const sentence = (text) =>
  text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
