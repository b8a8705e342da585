// The table of tunnels: those that the filters match, in one of three orders.

import { openClose } from "./dialogs.js";
import { $, el, Rows, setText, setTitled } from "./el.js";
import { findEvent } from "./events.js";
import { bytes, count, duration, plural, shortError, timeOfDay } from "./format.js";
import { nameCells, startTable } from "./table.js";

const fewRows = 25, manyRows = 100;
const period = 2000; // ms between refreshes
const pause = 30;    // ms after a key until the filter is applied

const columns = ["#", "Client", "Backend", "Request", "Open for", "Idle for", "A second", "Traffic", ""];

const body = startTable($("tunnels"), columns, 4);
const rows = new Rows(body, build, update);
const filters = $("filters");
let list = { tunnels: [] };
let limit = fewRows;
let mayAct = false; // until the first overview says so
let request; // the AbortController of the last one
let timer;

// showOptions is called with each overview.
export function showOptions(o) {
  if (mayAct === o.read_only) {
    mayAct = !o.read_only;
    for (const row of body.rows) update(row, row.tunnel);
  }
  const select = filters.elements.backend;
  const ids = ["", ...o.backends.map((b) => b.id)];
  if (select.value && !ids.includes(select.value)) ids.push(select.value); // it was removed
  if ([...select.options].map((option) => option.value).join("\n") === ids.join("\n")) return;
  const value = select.value;
  select.replaceChildren(...ids.map((id) => el("option", { value: id }, id || "all")));
  select.value = value;
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => { showClear(); refreshIn(pause); });
filters.addEventListener("reset", () => setTimeout(() => { showClear(); refreshIn(0); })); // when the fields are empty
$("more-tunnels").addEventListener("click", () => {
  limit = limit === fewRows ? manyRows : fewRows;
  refreshIn(0);
});

const isFiltered = () => ["backend", "client", "value", "request_id"].some((name) => filters.elements[name].value !== "");
const showClear = () => { $("clear").disabled = !isFiltered(); };

// refreshIn asks for the tunnels after some ms, and shows them in their order.
function refreshIn(ms) {
  clearTimeout(timer);
  timer = setTimeout(() => refresh(false), ms);
}

// refresh asks for the tunnels. If mayHold is set, rows that somebody points at stay where they
// are.
async function refresh(mayHold) {
  clearTimeout(timer);
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  const query = new URLSearchParams([...new FormData(filters)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
  query.set("limit", limit);
  try {
    const response = await fetch(`tunnels?${query}`, { signal });
    const answer = response.ok ? await response.json() : { error: (await response.text()).trim() };
    if (!signal.aborted) show(answer, mayHold);
  } catch {
    // Another request has replaced this one, or the connection is lost: the header shows it.
  }
  if (signal.aborted) return;
  timer = setTimeout(() => refresh(true), period);
}

export const startTunnels = () => refresh(false);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") refresh(true);
  else clearTimeout(timer);
});

function show(answer, mayHold) {
  if (answer.error !== undefined) {
    showEmpty(answer.error || "The proxy did not answer.");
    return;
  }
  list = answer;
  const isHeld = mayHold && (matchMedia("(hover: hover)").matches && body.matches(":hover") || body.contains(document.activeElement));
  rows.show(isHeld ? inPlace(list.tunnels) : list.tunnels, (t) => t.id);
  const shown = list.tunnels.length < list.matched ? `, the first ${list.tunnels.length} are shown` : "";
  setText($("tunnels-summary"), (isFiltered() ? `${count(list.matched)} of ${count(list.open)} open` : `${count(list.open)} open`) +
    shown + (isHeld ? ", in their place while you point at them" : ""));
  const isMore = list.matched > fewRows;
  $("more-tunnels").hidden = !isMore;
  setText($("more-tunnels"), limit === fewRows ? `Show ${Math.min(list.matched, manyRows)}` : `Show ${fewRows}`);
  showEmpty(list.tunnels.length > 0 ? "" : isFiltered() ? whyNone() : "No tunnel is open. Each WebSocket that is opened through the proxy is listed here.");
}

// inPlace returns tunnels in the order of their rows. Those that are not listed any longer keep
// their row.
function inPlace(tunnels) {
  const byID = new Map(tunnels.map((t) => [t.id, t]));
  return [...body.rows].map((row) => byID.get(row.tunnel.id) ?? { ...row.tunnel, isGone: true });
}

function showEmpty(text) {
  $("tunnels").hidden = text !== "";
  $("tunnels-empty").hidden = text === "";
  setText($("tunnels-empty"), text);
}

// whyNone says what is known of a request that has no open tunnel.
function whyNone() {
  const { request_id: id, client } = filters.elements;
  const none = `None of the ${plural(list.open, "open tunnel")} matches.`;
  const event = findEvent(id.value.trim(), client.value.trim());
  if (!event) return none;
  const who = id.value.trim() ? "The request" : "The client's last request";
  if (event.kind === "refused") {
    const error = event.error ? ` (${shortError(event.error, event.backend)})` : "";
    return `${none} ${who} was refused at ${timeOfDay(event.at)}: ${event.reason}, status ${event.status}${error}.`;
  }
  if (event.kind === "closed") {
    return `${none} ${who} had tunnel ${event.tunnel} on ${event.backend}, which ended at ${timeOfDay(event.at)}: ${event.side} ${event.cause}, code ${event.code}.`;
  }
  return none;
}

function build(id) {
  const row = el("tr", { role: "row" });
  const sub = (className = "") => el("span", { className: `sub ${className}` });
  row.parts = {
    client: el("span"), value: sub(), backend: el("span"), path: el("span"), requestID: sub("mono"),
    openFor: el("span"), idleFor: el("span"), rate: el("span"), up: el("span", { title: "to the backend" }), down: el("span", { className: "sub", title: "to the client" }),
    close: el("button", { type: "button", ariaLabel: `Close tunnel ${id}`, onclick: () => openClose(row.tunnel, list.at) }, "Close…"),
  };
  const p = row.parts;
  const cell = (className, ...children) => el("td", { role: "cell", className }, ...children);
  row.append(
    el("th", { scope: "row", role: "rowheader" }, String(id)),
    cell("", p.client, p.value), cell("", p.backend), cell("", p.path, p.requestID),
    cell("is-number", p.openFor), cell("is-number", p.idleFor), cell("is-number", p.rate), cell("is-number", p.up, p.down), cell("", p.close));
  nameCells(row, columns, 4);
  return row;
}

function update(row, t) {
  const p = row.parts, now = Date.parse(list.at);
  row.tunnel = t;
  row.classList.toggle("is-gone", !!t.isGone);
  setTitled(p.client, t.client);
  setTitled(p.value, t.value);
  setTitled(p.backend, t.backend);
  setTitled(p.path, t.host + t.path);
  setTitled(p.requestID, t.request_id);
  setText(p.openFor, duration((now - Date.parse(t.opened)) / 1000));
  setText(p.idleFor, duration((now - Date.parse(t.last_active)) / 1000));
  setText(p.rate, bytes(t.bytes_per_second));
  setText(p.up, `↑ ${bytes(t.to_backend.bytes)}`);
  setText(p.down, `↓ ${bytes(t.to_client.bytes)}`);
  p.close.hidden = !mayAct || !!t.isGone;
}
