// The diagram: the proxy, the backends, a line to each with the number of connections,
// and a dot for each client, which moves to the backend that the client is on.

import { $, el, hidden, hue, initial, tile } from "./el.js";

const moveTime = 550; // milliseconds
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

const stage = $("stage");
const cards = new Map(); // by backend
const lines = new Map(); // by backend
const dots = new Map();  // by client

// showBackends shows the backends of a status. It calls flip(id, action) when a button is
// used.
export function showBackends(backends, flip) {
  for (const b of backends) {
    if (!b.started) continue;
    const card = cards.get(b.id) ?? newCard(b, flip);
    card.classList.toggle("is-down", !b.running);
    card.querySelector(".addr").textContent = `port ${b.addr.split(":").at(-1)}`;
    card.classList.toggle("is-avoided", b.running && (b.frozen || b.state !== "up"));
    card.querySelector(".state").textContent = stateOf(b);
    showFlags(card.querySelector(".flags"), b.flags);
    const actions = actionsOn(b);
    for (const button of card.querySelectorAll("button")) button.hidden = !actions.includes(button.value);
    const line = lines.get(b.id);
    line.path.classList.toggle("is-down", !b.running || b.frozen);
    line.path.style.strokeWidth = b.tunnels === 0 ? 2 : Math.min(2 + 1.5 * b.tunnels, 12);
    line.count.textContent = b.tunnels;
    line.count.classList.toggle("is-zero", b.tunnels === 0);
  }
  drawLines();
}

function stateOf(b) {
  if (!b.running) return b.state === "removed" ? "stopped" : "crashed";
  const states = [];
  if (b.frozen) states.push("frozen");
  if (b.state === "draining") states.push(b.tunnels ? "draining" : "drained");
  return states.join(", ") || "running";
}

// actionsOn returns what can be done to a backend.
function actionsOn(b) {
  if (!b.running) return ["start"];
  const actions = [b.state === "draining" ? "resume" : "drain"];
  return b.frozen ? [...actions, "continue", "crash"] : [...actions, "freeze", "stop", "crash"];
}

// showFlags shows the flags that the proxy has raised, each with its reason and its time.
function showFlags(list, flags) {
  const texts = flags.map((f) => [f.flag, ` since ${new Date(f.since).toLocaleTimeString("en-GB")}: ${f.reason}`]);
  if (list.textContent === texts.flat().join("")) return; // a screen reader does not read it again
  list.replaceChildren(...texts.map(([flag, rest]) => el("li", {}, el("b", {}, flag), rest)));
}

function newCard({ id }, flip) {
  const button = (action, text) =>
    el("button", { type: "button", value: action, onclick: () => flip(id, action) }, text, hidden(` backend ${id}`));
  const mark = tile(id);
  mark.ariaHidden = "true"; // the heading says the same
  const card = el("li", { id: `backend-${id}`, className: "backend" },
    mark,
    el("h3", {}, `Backend ${id}`),
    el("p", {}, el("span", { className: "state" }), el("span", { className: "addr" })),
    el("ul", { className: "flags", role: "status", ariaLabel: `Flags of backend ${id}` }),
    el("div", { className: "switches" },
      button("drain", "Drain"), button("resume", "Resume"), button("freeze", "Freeze"), button("continue", "Continue"),
      button("stop", "Stop"), button("crash", "Crash"), button("start", "Start")),
    el("ul", { className: "dock", ariaLabel: `Clients on backend ${id}` }));
  card.dataset.backend = id;
  $("backends").append(card);
  cards.set(id, card);

  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.dataset.backend = id;
  $("lines").append(path);
  const count = el("span", { className: "count", ariaHidden: "true" });
  count.dataset.backend = id;
  stage.append(count);
  lines.set(id, { path, count });
  return card;
}

// drawLines draws a curve from the proxy to each backend, and the number on its end.
function drawLines() {
  const origin = stage.getBoundingClientRect();
  const proxy = $("proxy").getBoundingClientRect();
  const x1 = proxy.right - origin.left, y1 = proxy.top + proxy.height / 2 - origin.top;
  for (const [id, { path, count }] of lines) {
    const mark = cards.get(id).getBoundingClientRect();
    const x2 = mark.left - origin.left, y2 = mark.top + mark.height / 2 - origin.top;
    const middle = (x1 + x2) / 2;
    path.setAttribute("d", `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`);
    const near = Math.max(middle, x2 - 24);
    count.style.left = `${near}px`;
    count.style.top = `${y2}px`;
  }
}
new ResizeObserver(drawLines).observe(stage);

// showClients shows a dot for each client: an object with key, name, room and backend,
// which is empty while the client is offline.
export function showClients(clients) {
  const before = new Map([...dots].map(([key, dot]) => [key, dot.getBoundingClientRect()]));
  const here = new Set(clients.map((c) => c.key));
  for (const [key, dot] of dots) {
    if (here.has(key)) continue;
    dot.remove();
    dots.delete(key);
  }
  const moved = [];
  for (const c of clients) {
    const dock = (cards.get(c.backend) ?? $("offline")).querySelector(".dock");
    const dot = dots.get(c.key) ?? newDot(c.key);
    const label = `${c.name} in #${c.room}`;
    if (dot.title !== label) {
      dot.title = label;
      dot.replaceChildren(el("span", { ariaHidden: "true" }, initial(c.name)), hidden(label));
      dot.style.setProperty("--hue", hue(c.name));
    }
    if (dot.parentElement !== dock) {
      dock.append(dot);
      moved.push(c.key);
    }
  }
  $("offline").hidden = clients.every((c) => c.backend);
  drawLines();
  for (const key of moved) move(dots.get(key), before.get(key) ?? $("proxy").getBoundingClientRect());
}

function newDot(key) {
  const dot = el("li", { className: "dot" });
  dots.set(key, dot);
  return dot;
}

// move moves a dot from a place on the screen to where it is now.
function move(dot, from) {
  if (isCalm.matches) return;
  const to = dot.getBoundingClientRect();
  const x = from.left + from.width / 2 - to.left - to.width / 2;
  const y = from.top + from.height / 2 - to.top - to.height / 2;
  dot.animate([{ translate: `${x}px ${y}px`, zIndex: 2 }, { translate: "0 0", zIndex: 2 }],
    { duration: moveTime, easing: "cubic-bezier(.4, 0, .2, 1)" });
}

// pulse makes the dot of a client larger for a moment.
export function pulse(key) {
  if (!isCalm.matches) dots.get(key)?.animate({ scale: [1, 1.4, 1] }, { duration: 350, easing: "ease-out" });
}
