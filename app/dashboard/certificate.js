// What a certificate says. The page shows it and does not vouch for it: `hyperforget verify` does.

import { get } from "./api.js";
import { copyButton, h } from "./dom.js";

const MANY = 2; // of what it does not prove, shown unfolded

export async function certificateCard(job) {
  const envelope = await get(job.links.certificate);
  const statement = JSON.parse(decode(envelope.payload));
  const said = statement.predicate;
  const rows = statement.subject.map((one) => [one.name, digest(one.digest.sha256)]);
  rows.push(["signed by key", h("code", {}, envelope.signatures[0].keyid)]);
  rows.push(["audit log", `entry ${said.audit_log.index}`]);
  rows.push(["code", [said.code.hyperforget, said.code.commit?.slice(0, 12)].filter(Boolean).join(", ")]);
  const proves = said.does_not_prove;
  const command = "hyperforget verify certificate.json weights.safetensors --keys keys.json";
  return h(
    "div",
    {},
    h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h3", {}, "What it does not prove"),
    h("ul", { class: "caveats" }, proves.slice(0, MANY).map((one) => h("li", {}, one))),
    proves.length > MANY &&
      h(
        "details",
        {},
        h("summary", {}, `${proves.length - MANY} more`),
        h("ul", { class: "caveats" }, proves.slice(MANY).map((one) => h("li", {}, one))),
      ),
    h("p", { class: "hint" }, "Check it yourself, without this service; the keys are at ", h("a", { href: "/keys" }, "/keys"), "."),
    h("div", { class: "code" }, h("pre", { tabindex: "0" }, h("code", {}, command)), copyButton("Copy", command)),
  );
}

function digest(sha256) {
  return h("code", {}, `sha256:${sha256}`);
}

function decode(base64) {
  return new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
}
