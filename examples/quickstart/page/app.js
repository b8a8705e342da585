// The page of the quickstart. person.js is a chat client that reconnects, diagram.js
// draws the backends and the clients, and this file connects them with the quickstart:
// /status is its state, /events is a WebSocket with what happens.

import { pulse, showBackends, showClients } from "./diagram.js";
import { $, el, tile } from "./el.js";
import { Person } from "./person.js";

// A room's name consists of letters, digits and dashes: see isRoomName in chat.go.
const asked = new URLSearchParams(location.search).get("room") ?? "";
const room = [...asked.replace(/[^\p{L}\p{Nd}]+/gu, "-")].slice(0, 40).join("") || "design";

// ---- people

const names = ["Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gwen", "Hugo", "Ida", "Jon", "Kim", "Leo"];
const maxPeople = 8;
const people = [];

function addPerson(who) {
  const person = new Person(who, { changed, spoke: (p) => pulse(p.id), remove: removePerson });
  people.push(person);
  $("add-person").before(person.panel);
  changed();
}

function removePerson(person) {
  people.splice(people.indexOf(person), 1);
  person.leave();
  $("add").focus();
  changed();
}

// newPerson returns a person with a name that is not in use.
function newPerson(room) {
  const used = new Set([...people, ...(status?.clients ?? [])].map((p) => p.name));
  const name = names.find((n) => !used.has(n)) ?? `Guest ${Math.floor(Math.random() * 1000)}`;
  return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), name, room };
}

$("add-person").addEventListener("submit", (event) => {
  event.preventDefault();
  addPerson(newPerson($("room").value));
});

// changed is called when the state of a person has changed.
function changed() {
  $("add").disabled = people.length >= maxPeople;
  // A reload of this tab has the same people.
  sessionStorage.setItem("people", JSON.stringify(people.map(({ id, name, room }) => ({ id, name, room }))));
  refreshSoon();
}

addEventListener("online", () => people.forEach((p) => p.retryNow()));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  people.forEach((p) => p.retryNow());
  refreshSoon();
});

// ---- the state of the quickstart

let status; // the last response of /status; undefined while the quickstart does not respond
let refreshTimer;

function refreshSoon() {
  refreshTimer ??= setTimeout(refresh, 30);
}
setInterval(() => { if (document.visibilityState === "visible") refreshSoon(); }, 3000);

async function refresh() {
  try {
    const response = await fetch(`status?${new URLSearchParams({ room })}`);
    status = response.ok ? await response.json() : undefined;
  } catch {
    status = undefined;
  }
  refreshTimer = undefined;
  document.body.classList.toggle("is-lost", !status);
  if (status) {
    showBackends(status.backends, flip);
    const spare = status.backends.find((b) => !b.started);
    $("add-backend").hidden = !spare;
    $("add-backend").textContent = spare ? `Add backend ${spare.id}` : "";
    showRooms();
  }
  const clients = allClients();
  showClients(clients);
  const online = clients.filter((c) => c.backend).length;
  $("total").textContent = online === 1 ? "1 client" : `${online} clients`;
  setText($("headline"), headline(clients));
  setText($("hint"), hint(clients));
}

// setText changes a text only if it is another one, so that a screen reader does not read
// it again.
function setText(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// allClients returns the clients of all pages, and the people of this page that are
// offline.
function allClients() {
  const all = new Map();
  for (const { id, name, room } of people) all.set(id, { key: id, name, room, backend: "" });
  for (const c of status?.clients ?? []) {
    const key = c.id || `tunnel ${c.tunnel}`;
    all.set(key, { key, room: c.room, name: all.get(key)?.name ?? c.name, backend: c.backend });
  }
  return [...all.values()];
}

function headline(clients) {
  if (!status) return "The quickstart does not answer";
  const byRoom = Map.groupBy(clients, (c) => c.room);
  const texts = [...byRoom].map(([room, members]) => {
    const places = [...new Set(members.map((c) => c.backend))];
    if (places.length > 1) return `#${room} is moving`;
    return `Everyone in #${room} is ${places[0] ? `on backend ${places[0]}` : "offline"}`;
  });
  return texts.slice(0, 3).join("\n") || "Nobody is here";
}

function hint(clients) {
  if (!status) return "Start it again, and the page reconnects.";
  if (status.backends.every((b) => !b.running)) {
    const refusal = people.find((p) => p.refusal)?.refusal;
    return `No backend is running.${refusal ? ` The proxy answers ${refusal}.` : ""}`;
  }
  const frozen = status.backends.find((b) => b.frozen);
  if (frozen) {
    return frozen.flags.length ? `The proxy's health check has found that backend ${frozen.id} does not answer.`
      : `Backend ${frozen.id} accepts connections and answers nothing. The proxy does not know it yet.`;
  }
  const draining = status.backends.find((b) => b.running && b.state === "draining");
  if (draining) {
    return draining.tunnels ? `Backend ${draining.id} drains: its people are asked to reconnect, one after the other.`
      : `Backend ${draining.id} is drained, and can be stopped without a loss. It gets nobody until you resume it.`;
  }
  for (const { room, backend } of clients) {
    const choice = status.rooms.find((r) => r.name === room)?.choice;
    if (backend && choice && choice !== backend) {
      return `Now #${room} belongs to backend ${choice}. Add a person to it, and the others follow.`;
    }
  }
  const down = status.backends.find((b) => b.started && !b.running);
  if (down) {
    return `Backend ${down.id} ${down.state === "removed" ? "is stopped" : "has crashed"}. Its rooms are on other backends now.`;
  }
  return "Stop, drain or freeze a backend, and its people move to another one.";
}

const opposites = {
  stop: "start", crash: "start", start: "stop", drain: "resume", resume: "drain", freeze: "continue", continue: "freeze",
};

async function flip(id, action) {
  // The response to a drain comes when it is over. It can be resumed before.
  const buttons = action === "drain" ? [] : document.querySelectorAll(`#backend-${id} button`);
  for (const b of buttons) b.disabled = true;
  try {
    const response = await fetch(`backends/${id}/${action}`, { method: "POST" });
    if (!response.ok) showEvent({ kind: "error", text: await response.text(), time: Date.now() });
  } catch {
    // refresh shows that the quickstart does not answer
  }
  for (const b of buttons) b.disabled = false;
  await refresh();
  // Focus the button that is shown instead, for users of the keyboard.
  if (document.activeElement === document.body) document.querySelector(`#backend-${id} [value="${opposites[action]}"]`)?.focus();
}

$("add-backend").addEventListener("click", () => flip($("add-backend").textContent.at(-1), "start"));

function showRooms() {
  $("rooms").replaceChildren(...status.rooms.map((r) => el("li", {}, `#${r.name} `, tile(r.choice))));
  if ($("room").length === 0) {
    $("room").append(...status.rooms.map((r) => el("option", { value: r.name }, `#${r.name}`)));
    $("room").value = room;
  }
}

// ---- events

const maxEvents = 100;

function listen() {
  const url = new URL("events", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.addEventListener("open", () => $("events").replaceChildren());
  socket.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    showEvent(event);
    if (event.kind === "refused") people.find((p) => p.id === event.client.id)?.refused(event.text);
    refreshSoon();
  });
  socket.addEventListener("close", () => setTimeout(listen, 1000 + 1000 * Math.random()));
}

// showEvent adds an event to the top of the list.
function showEvent({ kind, time, client, text }) {
  const who = client?.name ? [el("b", {}, client.name), ": "] : [];
  const kindTag = el("span", { className: "kind" }, kind);
  kindTag.dataset.kind = kind;
  $("events").prepend(el("li", {},
    el("time", {}, new Date(time).toLocaleTimeString("en-GB")), kindTag, el("span", {}, ...who, text)));
  while ($("events").childElementCount > maxEvents) $("events").lastElementChild.remove();
}

// ---- start

await refresh();
listen();
const saved = JSON.parse(sessionStorage.getItem("people") ?? "[]");
if (saved.length) saved.forEach(addPerson);
else for (let i = 0; i < 2; i++) addPerson(newPerson(room));
