// The dialogs that ask before something is done. Each says what will happen.

import { post, toast } from "./actions.js";
import { $, el, setText } from "./el.js";
import { bytes, count, duration as exactDuration, plural, since } from "./format.js";

// A Dialog sends an action when its form is submitted. It stays open, with the reason, if that
// fails.
class Dialog {
  constructor(name, action) {
    Object.assign(this, { dialog: $(`${name}-dialog`), error: $(`${name}-error`), ok: $(`${name}-ok`) });
    this.dialog.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      this.ok.disabled = true;
      try {
        toast(await action());
        this.dialog.close();
      } catch (e) {
        setText(this.error, e.message);
      }
      this.ok.disabled = false;
    });
    this.dialog.querySelector("[data-cancel]").addEventListener("click", () => this.dialog.close());
  }

  show() {
    setText(this.error, "");
    this.dialog.showModal();
  }
}

// ---- drain

const defaultPerSecond = 1000; // of Proxy.Drain
let draining;

const drain = new Dialog("drain", () => post("drain", { backend: draining.id, over_seconds: Number($("drain-over").value) }));
$("drain-over").addEventListener("change", showPace);

export function openDrain(backend, overview) {
  draining = backend;
  setText($("drain-title"), backend.drain ? `Change the pace of ${backend.id}` : `Drain ${backend.id}?`);
  $("drain-over").value = "60";
  showDrain(backend, overview);
  drain.show();
}

// showDrain is called again while the dialog is open: its figures are the current ones.
function showDrain(backend, overview) {
  draining = backend;
  const others = overview.backends.filter((b) => b.id !== backend.id && b.state === "up").length;
  const where = others === 0 ? "" : others === 1 ? ", to the other backend that is up" : `, to one of the ${others} other backends that are up`;
  setText($("drain-text"), backend.tunnels === 0 ? "It has no tunnels, and gets no new ones until it is resumed."
    : `It gets no new tunnels until it is resumed. Its ${plural(backend.tunnels, "tunnel")} ${backend.tunnels === 1 ? "is" : "are"} closed with 1012, which asks ` +
      `${backend.tunnels === 1 ? "its client" : "their clients"} to come again${where}.`);
  $("drain-over-field").hidden = backend.tunnels === 0;
  $("drain-warning").hidden = others > 0;
  setText($("drain-warning"), backend.state === "removed" ? "" : "No other backend is up: new clients will be refused.");
  setText($("drain-ok"), backend.drain ? "Change the pace" : "Drain");
  showPace();
}

function showPace() {
  const n = draining.tunnels, over = Number($("drain-over").value);
  const duration = (s) => exactDuration(s).replace(/ 00 \w+$/, "");
  let text = `Closes ${plural(n, "tunnel")} over ${duration(over)}, about ${count(Math.max(1, Math.round(n / over)))} a second.`;
  if (over > 0 && n < over) text = `Closes ${plural(n, "tunnel")} over ${duration(over)}, one every ${duration(over / Math.max(n, 1))}.`;
  if (over === 0) text = `Closes ${plural(n, "tunnel")} at ${count(defaultPerSecond)} a second: within ${duration(Math.ceil(n / defaultPerSecond))}.`;
  if (over < 0) text = `Closes ${plural(n, "tunnel")} at once. All their clients come back at the same moment.`;
  setText($("drain-pace"), n === 0 ? "" : text);
}

// ---- resume

let resuming;

const resume = new Dialog("resume", () => post("resume", { backend: resuming.id }));

export function openResume(backend) {
  resuming = backend;
  showResume(backend);
  resume.show();
}

function showResume(backend) {
  setText($("resume-title"), `Resume ${backend.id}?`);
  setText($("resume-text"), backend.tunnels === 0 ? "It gets new tunnels again."
    : `It gets new tunnels again, and its ${plural(backend.tunnels, "tunnel")} that ${backend.tunnels === 1 ? "is" : "are"} left ${backend.tunnels === 1 ? "stays" : "stay"} open.`);
}

// ---- close

const meanings = {
  1000: "Normal closure: most clients do not come again.",
  1001: "Going away: many clients come again.",
  1008: "Policy violation: it is sent at once, and most clients do not come again.",
  1011: "Internal error.",
  1012: "Service restart: clients are asked to come again.",
  1013: "Try again later.",
};
let closing;

const close = new Dialog("close", () => post("close", {
  tunnel: closing, code: Number($("close-code").value), reason: $("close-reason").value,
}));
$("close-code").addEventListener("input", showMeaning);

export function openClose(tunnel, at) {
  closing = tunnel.id;
  setText($("close-title"), `Close tunnel ${tunnel.id}?`);
  const now = Date.parse(at), opened = Date.parse(tunnel.opened);
  const facts = {
    Client: tunnel.client, Value: tunnel.value, Backend: tunnel.backend, Request: tunnel.host + tunnel.path,
    "Request ID": tunnel.request_id, Subprotocol: tunnel.subprotocol,
    Opened: `${since(opened, now)}, ${exactDuration((now - opened) / 1000)} ago`,
    "To backend": `${bytes(tunnel.to_backend.bytes)} in ${plural(tunnel.to_backend.messages, "message")}`,
    "To client": `${bytes(tunnel.to_client.bytes)} in ${plural(tunnel.to_client.messages, "message")}`,
    Engine: tunnel.engine + (tunnel.http2 ? ", HTTP/2" : ""),
  };
  $("close-facts").replaceChildren(...Object.entries(facts).filter(([, v]) => v !== "")
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  showMeaning();
  close.show();
}

function showMeaning() {
  const code = Number($("close-code").value);
  setText($("close-meaning"), meanings[code] ?? (code >= 4000 ? "A code of the application's own." : code >= 3000 ? "A registered code." : ""));
}

// updateDialogs shows the current figures in the dialog that is open.
export function updateDialogs(overview) {
  const current = (b) => overview.backends.find((other) => other.id === b.id) ?? b;
  if (drain.dialog.open) showDrain(current(draining), overview);
  if (resume.dialog.open) showResume(current(resuming));
}
