// The table of backends, in the order of the set.

import { openDrain, openResume } from "./dialogs.js";
import { $, el, Rows, setText, setTitled } from "./el.js";
import { about, count, duration, percent, rate, shortError, since } from "./format.js";
import { nameCells, startTable } from "./table.js";

const columns = ["Backend", "State", "Tunnels", "Share", "Load", "Opened/s", "Failed attempts", ""];

const rows = new Rows(startTable($("backends"), columns, 3), build, update);
let overview;

export function showBackends(o) {
  overview = o;
  rows.show(o.backends, (b) => b.id);
  $("backends").hidden = o.backends.length === 0;
  $("backends-empty").hidden = o.backends.length > 0;
  const states = ["up", "failing", "draining", "removed"].map((s) => [o.backends.filter((b) => b.state === s).length, s]);
  setText($("backends-summary"), states.filter(([n]) => n > 0).map(([n, s]) => `${n} ${s}`).join(", "));
}

function build(id) {
  const number = (name) => el("td", { role: "cell", className: "is-number" });
  const row = el("tr", { role: "row" });
  row.parts = {
    id: el("span", { className: "id" }), url: el("span", { className: "sub" }),
    state: el("span", { className: "state" }), since: el("span", { className: "state-since" }),
    reasons: new Rows(el("ul", { className: "reasons" }), buildReason, updateReason),
    drain: bar("is-drain"),
    tunnels: el("span"), limit: bar(""),
    share: number(), load: number(), opened: number(), failed: el("span"), attempts: el("span", { className: "sub" }),
    action: el("button", { type: "button", onclick: () => act(row.backend) }),
    pace: el("button", { type: "button", onclick: () => openDrain(row.backend, overview) }, "Pace…"),
  };
  const p = row.parts;
  row.append(
    el("th", { scope: "row", role: "rowheader" }, p.id, p.url),
    el("td", { role: "cell" }, p.state, p.since, p.reasons.parent, p.drain),
    el("td", { role: "cell" }, p.tunnels, p.limit),
    p.share, p.load, p.opened,
    el("td", { role: "cell", className: "is-number" }, p.failed, p.attempts),
    el("td", { role: "cell", className: "actions" }, p.action, p.pace));
  nameCells(row, columns, 2);
  p.pace.ariaLabel = `Change the pace at which ${id} is drained`;
  return row;
}

function update(row, b) {
  const p = row.parts, now = Date.parse(overview.at);
  row.backend = b;
  row.dataset.state = b.state;
  row.dataset.id = b.id;
  setTitled(p.id, b.id);
  const facts = [b.url === b.id ? "" : b.url, b.weight === 1 ? "" : `weight ${b.weight}`, b.priority === 0 ? "" : `priority ${b.priority}`];
  setTitled(p.url, facts.filter(Boolean).join(" · "));

  setText(p.state, b.state === "draining" && b.drain?.remaining === 0 ? "drained" : b.state);
  const from = Date.parse(b.since);
  setText(p.since, b.state === "up" ? `for ${about((now - from) / 1000)}` : `since ${since(from, now)}, ${duration((now - from) / 1000)}`);
  p.reasons.show(reasonsOf(b, now), (r) => r.key);
  const drainFrom = b.drain?.from ?? 0;
  p.drain.hidden = !b.drain || drainFrom === 0;
  setBar(p.drain, drainFrom === 0 ? 0 : 1 - b.drain?.remaining / drainFrom);

  setText(p.tunnels, b.tunnels_limit ? `${count(b.tunnels)} of ${count(b.tunnels_limit)}` : count(b.tunnels));
  const used = b.tunnels_limit ? b.tunnels / b.tunnels_limit : 0;
  setBar(p.limit, used);
  p.limit.classList.toggle("is-none", b.tunnels_limit === 0);
  p.limit.classList.toggle("is-full", used >= 0.95);
  setText(p.share, percent(b.share));
  setText(p.load, count(b.load));
  setText(p.opened, b.opened_per_second === null ? "–" : rate(b.opened_per_second));
  const failed = b.failed + b.unreached + b.full;
  setText(p.failed, count(failed));
  setText(p.attempts, `of ${count(failed + b.accepted + b.refused + b.abandoned)}`);
  showActions(p, b);
}

function showActions(p, b) {
  p.action.hidden = overview.read_only || b.state === "removed" && !b.drain && b.tunnels === 0;
  p.pace.hidden = overview.read_only || !b.drain || b.drain.remaining === 0;
  // One button for both actions, so that it keeps its focus.
  const action = b.drain ? "Resume" : "Drain";
  setText(p.action, `${action}…`);
  const label = `${action} ${b.id}`;
  if (p.action.ariaLabel !== label) p.action.ariaLabel = label;
}

const act = (b) => (b.drain ? openResume(b, overview) : openDrain(b, overview));

// reasonsOf returns what there is to say about a state: flags, the drain, the check.
function reasonsOf(b, now) {
  const reasons = b.flags.map((f) => {
    const wait = f.until === null ? 0 : (Date.parse(f.until) - now) / 1000;
    const verb = f.flag === "ejected" ? "ejected" : "avoided";
    const until = f.until === null ? "" : wait > 0 ? `${verb} for ${duration(Math.ceil(wait))} more` : "on probation";
    return {
      key: f.flag, className: f.flag === "full" || f.flag === "resting" ? "is-mild" : "", what: f.flag, says: shortError(f.reason, b.id),
      since: `since ${since(Date.parse(f.since), now)}`, until,
    };
  });
  if (b.drain) {
    const { remaining, from } = b.drain;
    reasons.push({
      key: "drain", className: "is-drain", what: remaining === 0 ? "no tunnels left" : `${count(remaining)} of ${count(from)} left`,
      says: remaining === 0 ? "it can be stopped" : "", since: "", until: "",
    });
  }
  if (b.refusing) {
    reasons.push({ key: "refusing", className: "", what: "refuses clients", says: "more upgrades than it accepts", since: "", until: "" });
  }
  if (reasons.length === 0 && b.last_probe === "passed") {
    reasons.push({ key: "probe", className: "", what: "", says: "", since: "the last probe passed", until: "" });
  }
  return reasons;
}

const buildReason = () => el("li", {}, el("b"), el("span", { className: "until" }), el("span"), el("span"));

function updateReason(row, r) {
  const [what, until, says, from] = row.children;
  row.className = r.className;
  setText(what, r.what);
  setText(until, r.until && `, ${r.until}`);
  setText(says, r.says && `: ${r.says}`);
  setText(from, r.since && (r.what ? ` · ${r.since}` : r.since));
  const all = row.textContent;
  if (row.title !== all) row.title = all; // all but the first one are cut off
}

const bar = (className) => el("span", { className: `bar ${className}`, ariaHidden: "true" }, el("span"));

// setBar fills a bar to a share of 0 to 1.
function setBar(e, share) {
  const width = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
  if (e.firstChild.style.width !== width) e.firstChild.style.width = width;
}
