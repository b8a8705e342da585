// The three lists of events, the newest first.

import { $, el, Rows, setText } from "./el.js";
import { count, latency, shortError, timeOfDay } from "./format.js";

const fewEvents = 20;

// An EventList is one of the lists. While somebody reads it, it does not move: new events wait.
class EventList {
  constructor({ name, title, capacity, empty, describe }) {
    Object.assign(this, { name, capacity, describe, all: [], isShort: true, shownUpTo: 0 });
    this.summary = el("p");
    this.list = el("ol", { tabIndex: 0, ariaLabel: title });
    this.empty = el("p", { className: "empty" }, empty);
    this.more = el("button", { type: "button", onclick: () => { this.isShort = !this.isShort; this.show(true); } });
    this.rows = new Rows(this.list, (_, event) => this.build(event), () => {});
    this.element = el("section", { className: "panel", ariaLabel: title },
      el("header", {}, el("h2", {}, title), this.summary, this.more), this.empty, this.list);
    this.list.addEventListener("pointerleave", () => this.show(false));
    this.list.addEventListener("blur", () => this.show(false));
  }

  add(events, isComplete) {
    if (isComplete) this.all = [];
    // An event may be noticed after a later one.
    this.all = [...events, ...this.all].sort((a, b) => Date.parse(b.at) - Date.parse(a.at) || b.number - a.number).slice(0, this.capacity);
    this.show(isComplete);
  }

  show(isForced) {
    const isHeld = !isForced && (this.list.scrollTop > 0 || this.list.matches(":focus-visible")
      || matchMedia("(hover: hover)").matches && this.list.matches(":hover"));
    const numNew = this.all.filter((e) => e.number > this.shownUpTo).length;
    const numHeld = isHeld && this.list.childElementCount > 0 ? numNew : 0;
    if (numHeld === 0) {
      this.shownUpTo = Math.max(0, ...this.all.map((e) => e.number));
      this.rows.show(this.isShort ? this.all.slice(0, fewEvents) : this.all, (e) => e.number);
    }
    setText(this.summary, numHeld > 0 ? `${numHeld} newer` : "");
    this.empty.hidden = this.all.length > 0;
    this.list.hidden = this.all.length === 0;
    this.more.hidden = this.all.length <= fewEvents;
    setText(this.more, this.isShort ? `All ${this.all.length}` : `Last ${fewEvents}`);
  }

  build(event) {
    const { tone = "", what, says } = this.describe(event);
    const times = event.count > 1 ? [el("span", { className: "times" }, ` × ${count(event.count)}`)] : [];
    const id = event.request_id ? [el("span", { className: "sub mono", title: event.request_id }, event.request_id)] : [];
    return el("li", { className: tone }, el("time", { dateTime: event.at }, timeOfDay(event.at)),
      el("div", {}, el("b", {}, what), says, ...times, ...id));
  }
}

const lists = [
  new EventList({
    name: "changes", title: "State changes and actions", capacity: 200, describe: describeChange,
    empty: "A backend that fails or recovers is listed here, and what is done on this page.",
  }),
  new EventList({
    name: "refusals", title: "Refusals and failures", capacity: 200, describe: describeRefusal,
    empty: "No request was refused. For each reason at most one request a second is listed here, with its ID.",
  }),
  new EventList({
    name: "tunnels", title: "Tunnels, a sample", capacity: 50, describe: describeTunnel,
    empty: "No tunnel has opened or ended yet.",
  }),
];
$("events").append(...lists.map((l) => l.element));

export function addEvents(o) {
  for (const l of lists) l.add(o.events[l.name], o.complete);
}

// findEvent returns the last event about a request, by the beginning of its ID, or else about a
// client.
export function findEvent(requestID, client) {
  const all = lists.flatMap((l) => l.all).sort((a, b) => b.number - a.number);
  if (requestID) return all.find((e) => e.request_id?.startsWith(requestID));
  if (client) return all.find((e) => e.kind !== "action" && e.client?.startsWith(client));
}

function describeChange(e) {
  switch (e.kind) {
    case "flag raised": return { tone: "is-bad", what: e.backend, says: ` ${e.flag}${e.error ? `: ${shortError(e.error, e.backend)}` : ""}` };
    case "flag cleared": return { tone: e.state === "up" ? "is-good" : "", what: e.backend, says: ` no longer ${e.flag}${e.state === "up" ? ", up" : ""}` };
    case "state": return { tone: { up: "is-good", draining: "is-busy", failing: "is-bad" }[e.state], what: e.backend, says: ` ${e.state}` };
    case "action": return { tone: "is-busy", what: e.actor || "somebody", says: ` (${e.client}): ${e.action} ${e.target}, ${e.result}` };
    case "drain ended": return { tone: "is-busy", what: e.backend, says: ` ${e.result}` };
  }
  return { what: e.kind, says: "" };
}

function describeRefusal(e) {
  const parts = [e.client, e.path, e.status && `status ${e.status}`, e.backend, e.error && shortError(e.error, e.backend)].filter(Boolean);
  return { tone: "is-bad", what: e.reason, says: ` ${parts.join(" · ")}` };
}

function describeTunnel(e) {
  if (e.kind === "opened") return { tone: "is-good", what: "opened", says: ` ${e.tunnel} · ${[e.client, e.path, e.backend].join(" · ")}` };
  const took = e.duration_seconds === undefined ? "" : ` after ${latency(e.duration_seconds)}`;
  const tone = e.cut || e.cause === "lost" ? "is-bad" : "";
  const rest = [e.code && `code ${e.code}`, e.cut && "cut", e.client, e.path, e.backend, e.error].filter(Boolean);
  return { tone, what: `${e.side} ${e.cause}`, says: ` ${e.tunnel}${took} · ${rest.join(" · ")}` };
}
