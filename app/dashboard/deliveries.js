// What became of the event that a job's end is: sent, refused, to be tried again.

import { Problem, get, post } from "./api.js";
import { foreign, h, problemBox } from "./dom.js";
import { moment } from "./format.js";

export async function deliveriesCard(job) {
  const { items } = await get(job.links.deliveries);
  const place = h("div", {});
  place.append(
    h("p", { class: "hint" }, "Sent to ", foreign(job.callback_url), ", signed."),
    items.length
      ? h("ul", { class: "caveats", id: "deliveries" }, items.map((one) => entry(one, () => again(one))))
      : h("p", { class: "muted" }, "Nothing yet: the job has not ended."),
  );
  return place;

  async function again(one) {
    try {
      await post(one.links.replay);
      place.replaceChildren(...(await deliveriesCard(job)).childNodes);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      place.append(problemBox(error));
    }
  }
}

function entry(one, again) {
  const said = [one.event, one.status, `${one.attempts} ${one.attempts === 1 ? "attempt" : "attempts"}`];
  if (one.last_status) said.push(`answered ${one.last_status}`);
  if (one.next_attempt_at) said.push(`next ${moment(one.next_attempt_at)}`);
  const button = one.links.replay && h("button", { type: "button", class: "replay" }, "Send again");
  button?.addEventListener("click", again, { once: true });
  return h(
    "li",
    {},
    said.join(", "),
    one.last_error && h("p", { class: "hint" }, foreign(one.last_error)),
    button,
  );
}
