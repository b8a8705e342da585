// What is wrong, in a sentence: from an overview to texts. Nothing here touches the page.

import { count, duration, plural, shortError, since } from "./format.js";

// ownReasons are those for which the clients are at fault, or nobody: they are no alarm unless
// there are suddenly more of them. The alert of contrib/prometheus/alerts.yml leaves out the same.
const ownReasons = new Set(["check", "origin", "admit", "client limit", "answer", "client left", "shutdown"]);

// hasAlarm reports whether there were refusals in the last minute for a reason that needs an operator.
export const hasAlarm = (refusals) => !ownReasons.has(refusals.reason) && refusals.last_minute > 0;

// isRising reports whether the last ten seconds have at least twice as many refusals a second as
// the time before, and one a second at least.
export function isRising(refused) {
  const last = refused.slice(-10), before = refused.slice(-60, -10);
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / Math.max(values.length, 1);
  return mean(last) >= 1 && mean(last) >= 2 * mean(before);
}

// judge returns the level ("good", "busy" or "bad"), the headline, and the problems, the worst
// first. A problem has a key, and the texts what, says and more. The headline has no figure that
// changes each second, because a screen reader reads it when it changes.
export function judge(o, refused) {
  const now = Date.parse(o.at);
  const inSet = o.backends.filter((b) => b.state !== "removed");
  const bad = [], busy = [], problems = [];

  const failing = inSet.filter((b) => b.state === "failing");
  if (inSet.length === 0) {
    bad.push("there are no backends");
  } else if (failing.length === inSet.length) {
    bad.push(inSet.length === 1 ? "the backend is failing" : `all ${inSet.length} backends are failing`);
  } else if (failing.length > 0) {
    bad.push(`${failing.length} of ${inSet.length} backends ${failing.length === 1 ? "is" : "are"} failing`);
  }
  for (const b of failing) {
    problems.push({
      key: `failing ${b.id}`, what: b.id, says: b.flags.length > 0 ? `${b.flags[0].flag}: ${shortError(b.flags[0].reason, b.id)}` : b.reason,
      more: `since ${since(Date.parse(b.since), now)} (${duration((now - Date.parse(b.since)) / 1000)})`,
    });
  }
  for (const b of inSet.filter((b) => b.refusing && b.state === "up")) {
    bad.push(`${b.id} refuses clients`);
    problems.push({ key: `refusing ${b.id}`, what: b.id, says: "refuses more upgrades than it accepts", more: "" });
  }

  const alarms = o.refusals.by_reason.filter(hasAlarm);
  const rises = isRising(refused);
  if (rises || alarms.length > 0) {
    bad.push(rises ? "refusals are rising" : "upgrades were refused");
    const reasons = (rises ? o.refusals.by_reason.filter((r) => r.last_minute > 0) : alarms).sort((a, b) => b.last_minute - a.last_minute);
    problems.push({
      key: "refusals", what: `${count(o.refusals.last_minute)} refused in the last minute`,
      says: reasons.map((r) => `${r.reason} ${count(r.last_minute)}`).join(", "), more: "",
    });
  }
  const { tunnels, tunnels_limit: limit, waiting } = o.totals;
  if (limit > 0 && tunnels >= limit * 0.95) {
    bad.push("the limit of tunnels is near");
    problems.push({ key: "limit", what: `${count(tunnels)} of ${count(limit)} tunnels`, says: "the limit of the proxy", more: "" });
  }
  for (const b of inSet.filter((b) => b.tunnels_limit > 0 && b.tunnels >= b.tunnels_limit)) {
    bad.push(`${b.id} is full`);
    problems.push({ key: `full ${b.id}`, what: b.id, says: `has its ${count(b.tunnels_limit)} tunnels`, more: "" });
  }
  if (waiting > 0) {
    busy.push("upgrades wait for a backend");
    problems.push({ key: "waiting", what: plural(waiting, "upgrade"), says: waiting === 1 ? "waits for a backend" : "wait for a backend", more: "" });
  }

  const draining = o.backends.filter((b) => b.state === "draining");
  if (draining.length > 0) {
    busy.push(draining.length === 1 ? `${draining[0].id} drains` : `${draining.length} backends drain`);
  }
  for (const b of draining) {
    const left = b.drain.remaining;
    problems.push({
      key: `draining ${b.id}`, what: b.id, says: left > 0 ? `drains, ${plural(left, "tunnel")} left` : "is drained, and can be stopped",
      more: `since ${since(Date.parse(b.since), now)}`,
    });
  }

  const all = [...bad, ...busy];
  if (all.length === 0) {
    const refusals = o.refusals.last_minute;
    const reasons = o.refusals.by_reason.filter((r) => r.last_minute > 0).map((r) => `${r.reason} ${count(r.last_minute)}`);
    problems.push({
      key: "calm", what: "", says: "", more: refusals === 0 ? "No request was refused in the last minute."
        : `${plural(refusals, "request")} refused in the last minute: ${reasons.join(", ")}.`,
    });
  }
  const calm = inSet.length === 1 ? "The backend is up" : `All ${inSet.length} backends are up`;
  return { level: bad.length ? "bad" : busy.length ? "busy" : "good", headline: sentence(all.slice(0, 3)) || calm, problems };
}

function sentence(parts) {
  const text = parts.join(", ");
  // An ID of a backend stays as it is.
  return /^(there|the|all|refusals|upgrades) /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
}
