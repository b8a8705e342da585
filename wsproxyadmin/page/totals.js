// The totals, each with its last two minutes, and the figures of the proxy itself.

import { $, el, Rows, setText } from "./el.js";
import { bytes, count, latency, plural, rate } from "./format.js";
import { seconds } from "./history.js";
import { Sparkline } from "./sparkline.js";
import { hasAlarm, isRising } from "./verdict.js";

// A Total is one figure with its unit, a sparkline, and the parts that it consists of.
class Total {
  constructor(title) {
    this.figure = el("span");
    this.unit = el("span");
    this.sparkline = new Sparkline();
    const parts = el("ul", { className: "parts" });
    this.parts = new Rows(parts, (name) => el("li", {}, el("span", { title: name }, name), el("span")), (row, [, value, isBad]) => {
      setText(row.lastElementChild, value);
      row.lastElementChild.classList.toggle("is-bad", !!isBad);
    });
    this.element = el("article", { className: "total" }, el("h3", {}, title, this.unit),
      el("p", { className: "figure" }, this.figure), this.sparkline.svg, parts);
  }

  // Parts are pairs of a name and a text.
  show(figure, unit, values, parts, isBad = false) {
    setText(this.figure, figure);
    setText(this.unit, unit); // beside the title, so that it does not move with the figure
    this.sparkline.show(values, seconds);
    this.parts.show(parts, ([name]) => name);
    this.element.classList.toggle("is-bad", isBad);
  }
}

const totals = {
  tunnels: new Total("Tunnels"),
  opened: new Total("Opened"),
  ended: new Total("Ended"),
  refused: new Total("Refused"),
  upgrade: new Total("Time of an upgrade"),
  traffic: new Total("Traffic"),
};
const inside = new Rows(el("dl", { className: "inside" }),
  (name) => el("div", {}, el("dt", {}, name), el("dd")),
  (row, [, value, isBad, title]) => {
    setText(row.lastElementChild, value);
    row.classList.toggle("is-bad", !!isBad);
    if (row.title !== title) row.title = title;
  });
$("totals").append(...Object.values(totals).map((t) => t.element), inside.parent);

export function showTotals(o, history) {
  const t = o.totals;
  totals.tunnels.show(count(t.tunnels), t.tunnels_limit ? ` of ${count(t.tunnels_limit)}` : "", history.tunnels, [
    ["upgrades under way", count(t.upgrading)],
    ["waiting", t.waiting_limit ? `${count(t.waiting)} of ${count(t.waiting_limit)}` : count(t.waiting)],
    ["on the event loop", count(t.event_loop_tunnels)],
  ]);
  totals.opened.show(rate(o.opens.per_second), " a second", history.opened, [
    ["last minute", count(o.opens.last_minute)],
    ["since the start", count(o.opens.total)],
  ]);
  totals.ended.show(rate(o.ends.per_second), " a second", history.ended, [
    ["last minute", count(o.ends.last_minute)],
    ...mostFrequent(o.ends.by_cause).map((e) => [`${e.side}: ${e.cause}`, count(e.last_minute)]),
  ]);
  totals.refused.show(rate(o.refusals.per_second), " a second", history.refused, [
    ["last minute", count(o.refusals.last_minute)],
    ...alarmsFirst(mostFrequent(o.refusals.by_reason)).map((r) => [r.reason, count(r.last_minute), hasAlarm(r)]),
  ], o.refusals.by_reason.some(hasAlarm) || isRising(history.refused));
  totals.upgrade.show(ms(o.upgrade.p99_ms), ", p99", history.upgrade_p99_ms, [
    ["p50", ms(o.upgrade.p50_ms)],
    ...o.upgrade.phases.map((p) => [`p99 of ${p.phase}`, ms(p.p99_ms)]),
  ]);
  const { to_backend: up, to_client: down } = t;
  totals.traffic.show(perSecond(sum(up.bytes_per_second, down.bytes_per_second), bytes), " a second", history.traffic, [
    ["↑ to backends", perSecond(up.bytes_per_second, bytes)],
    ["↑ messages", perSecond(up.messages_per_second, rate)],
    ["↓ to clients", perSecond(down.bytes_per_second, bytes)],
    ["↓ messages", perSecond(down.messages_per_second, rate)],
  ]);
  showInside(t);
}

function showInside(t) {
  const numPanics = t.hook_panics.reduce((n, h) => n + h.count, 0);
  inside.show([
    ["Stalled", plural(t.stalled, "tunnel"), t.stalled > 0, "Tunnels of which a side takes nothing, though something waits for it"],
    ["Buffered", bytes(t.buffered_bytes), false, "Bytes in the memory of the proxy that sides do not take"],
    ["Cut", count(t.cut), false, "Tunnels that lost bytes when they ended, since the start"],
    ["Retries", count(t.retries), false, "Attempts after the first one of an upgrade, since the start"],
    ["Retries denied", count(t.retries_denied), t.retries_denied > 0, "Retries that were not made because their budget was used up, since the start"],
    ["Hook panics", count(numPanics), numPanics > 0, t.hook_panics.map((h) => `${h.hook}: ${h.count}`).join(", ") || "Panics of the program's hooks, since the start"],
    ["Other requests", count(t.requests), false, "Requests in flight that are no upgrade"],
  ], ([name]) => name);
}

const ms = (n) => (n === null ? "–" : latency(n / 1000));
const perSecond = (n, format) => (n === null ? "–" : format(n));
const sum = (a, b) => (a === null ? null : a + b);

// alarmsFirst sorts reasons that need an operator before others: the tile shows four.
const alarmsFirst = (list) => list.toSorted((a, b) => hasAlarm(b) - hasAlarm(a));

// mostFrequent sorts those of the last minute before others, and by their totals: so the order
// seldom changes.
const mostFrequent = (list) => list.toSorted((a, b) => (b.last_minute > 0) - (a.last_minute > 0) || b.total - a.total);
