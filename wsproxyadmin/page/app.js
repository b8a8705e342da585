// The admin page. Each overview of the stream is shown by one module for each part of the page;
// this file has the header and what is wrong. Nothing is built anew while figures change: rows
// stay the same elements, and only their texts are replaced.

import { showBackends } from "./backends.js";
import { updateDialogs } from "./dialogs.js";
import { $, el, Rows, setText } from "./el.js";
import { addEvents } from "./events.js";
import { about, timeOfDay } from "./format.js";
import { History } from "./history.js";
import { Stream } from "./stream.js";
import { showTotals } from "./totals.js";
import { showOptions, startTunnels } from "./tunnels.js";
import { judge } from "./verdict.js";

const maxProblems = 5;
const history = new History();
let receivedAt = 0; // of the last overview, by performance.now()

const stream = new Stream("stream", {
  received(o) {
    receivedAt = performance.now();
    history.add(o);
    showHeader(o);
    showVerdict(o);
    showTotals(o, history);
    showBackends(o);
    showOptions(o);
    addEvents(o);
    updateDialogs(o);
  },
  changed: showConnection,
});

// ---- the header

function showHeader(o) {
  setText($("instance"), o.instance);
  if (document.title !== `${o.instance} · wsproxy`) document.title = `${o.instance} · wsproxy`;
  setText($("version"), [`wsproxy ${o.version}`, o.go].filter(Boolean).join(" · "));
  setText($("actor"), o.actor && `signed in as ${o.actor}`);
  $("readonly").hidden = !o.read_only;
  $("redacted").hidden = !o.redacted;
  $("by-value").parentElement.hidden = o.redacted; // values are hidden: the filter would be refused
  setText($("refreshed"), `at ${timeOfDay(o.at)}`);
}

function showConnection(state) {
  $("connection").dataset.state = state === "refused" ? "lost" : state;
  setText($("connection-state"), { connecting: "Connecting", live: "Live", lost: "Lost", refused: "Not allowed", paused: "Paused" }[state]);
  document.body.classList.toggle("is-lost", state === "lost" || state === "refused");
  if (state === "lost" || state === "refused") showLost(state);
}

function showLost(state) {
  $("verdict").dataset.level = "bad";
  setText($("headline"), state === "refused" ? "The proxy does not let you in" : "The proxy does not answer");
  const more = state === "refused" ? stream.error.trim()
    : receivedAt ? "The figures below are old. The page connects again by itself." : "The page connects by itself as soon as it does.";
  problems.show([{ key: "lost", what: "", says: "", more }], (p) => p.key);
}

// A clock of the time since the last figures, while none come.
setInterval(() => {
  if (stream.state !== "live" && receivedAt) setText($("refreshed"), `${about((performance.now() - receivedAt) / 1000)} old`);
}, 1000);

// ---- what is wrong

const problems = new Rows($("problems"), () => el("li", {}, el("b"), el("em"), el("span")), (row, p) => {
  setText(row.children[0], p.what);
  setText(row.children[1], p.says && ` ${p.says}`);
  setText(row.children[2], p.more && (p.what ? ` · ${p.more}` : p.more));
});

function showVerdict(o) {
  const verdict = judge(o, history.refused);
  $("verdict").dataset.level = verdict.level;
  setText($("headline"), verdict.headline);
  const shown = verdict.problems.slice(0, maxProblems);
  const left = verdict.problems.length - shown.length;
  if (left > 0) shown.push({ key: "more", what: "", says: "", more: `and ${left} more` });
  problems.show(shown, (p) => p.key);
}

startTunnels();
