// Server-sent events read over fetch: EventSource can't send the header with the API key.

import { send } from "./api.js";

const PAUSES = [500, 1_000, 2_000, 5_000, 10_000]; // milliseconds before each further try
const SILENCE = 40_000; // milliseconds; the service says something every 15 s

// Follows all jobs until it is stopped; comes back after every end.
//   on.event(name, data): an event; on.state("live" | "lost"); on.refused(problem): 401 or 403.
export function follow(on) {
  const stopped = new AbortController();
  run(on, stopped.signal);
  return () => stopped.abort();
}

async function run(on, signal) {
  let failures = 0;
  while (!signal.aborted) {
    const silent = new AbortController();
    const either = AbortSignal.any([signal, silent.signal]);
    try {
      const answer = await send("/jobs/events", { signal: either });
      failures = 0;
      on.state("live");
      await read(answer.body, on.event, () => silent.abort());
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 403) {
        on.refused(error);
        return;
      }
      on.state("lost");
      await pause(PAUSES[Math.min(failures++, PAUSES.length - 1)], signal);
    }
  }
}

async function read(body, event, giveUp) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const watch = setTimeout(giveUp, SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(watch));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const { name, data } = parse(block);
      if (data) event(name, JSON.parse(data));
    }
  }
}

function parse(block) {
  const found = { name: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) found.name = line.slice(7);
    if (line.startsWith("data: ")) found.data += line.slice(6);
  }
  return found;
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
