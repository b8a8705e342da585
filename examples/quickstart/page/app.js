// The page of the quickstart: a chat client that reconnects when its connection
// ends, and shows what happened. Messages are added to the page as text nodes only,
// never as HTML.

const $ = (id) => document.getElementById(id);

// el creates an element. Children that are strings become text.
function el(tag, props = {}, ...children) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
}

// A room's name consists of letters, digits and dashes: see isRoomName in chat.go.
const asked = new URLSearchParams(location.search).get("room") ?? "";
const room = [...asked.replace(/[^\p{L}\p{Nd}]+/gu, "-")].slice(0, 40).join("") || "design";

// ---- who I am: per tab, so that two tabs are two people

const first = ["Sunny", "Quick", "Gentle", "Merry", "Clever", "Brave", "Cosy", "Lucky", "Jolly", "Calm", "Keen", "Witty"];
const last = ["Otter", "Robin", "Fox", "Panda", "Heron", "Lynx", "Puffin", "Badger", "Hare", "Finch", "Koala", "Whale"];
const pick = (list) => list[Math.floor(Math.random() * list.length)];

let author = sessionStorage.getItem("author") || `${pick(first)} ${pick(last)}`;
sessionStorage.setItem("author", author);
$("author").value = author;
$("author").addEventListener("change", () => {
  author = $("author").value.trim() || author;
  $("author").value = author;
  sessionStorage.setItem("author", author);
  if (isOnline()) socket.send(JSON.stringify({ author }));
});

// ---- the connection

let socket;
let backend = "";        // ID of the backend of the last welcome
let memory = "";         // ID of that backend's memory, different after each start
let isWelcome = false;   // the current connection has got its welcome
let failures = 0;        // attempts that have failed in succession
let timer;               // of the next attempt

const isOnline = () => isWelcome && socket.readyState === WebSocket.OPEN;

function connect() {
  clearTimeout(timer);
  timer = undefined;
  isWelcome = false;
  const url = new URL("chat", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ room, author });
  socket = new WebSocket(url);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", ended);
  showConnection("Connecting…");
}

function receive(message) {
  switch (message.type) {
    case "welcome": return welcome(message);
    case "presence": return showPresence(message.authors);
    case "message": return showMessage(message);
  }
}

function welcome(w) {
  isWelcome = true;
  failures = 0;
  if (memory) tellWhatIsLeft(w);
  backend = w.backend;
  memory = w.memory;
  document.body.dataset.backend = backend;
  for (const message of w.history) showMessage(message);
  showConnection(`Connected to backend ${backend}`);
}

// tellWhatIsLeft marks messages on the page that the backend does not have.
function tellWhatIsLeft(w) {
  if (w.memory === memory) {
    note("moved", `Connected to backend ${w.backend} again. It still knows everything.`);
    return;
  }
  const gone = document.querySelectorAll(".message:not(.lost)");
  for (const message of gone) message.classList.add("lost");
  const where = w.backend === backend
    ? `Backend ${backend} started anew with an empty memory.`
    : `This room is now on backend ${w.backend}, which shares no memory with ${backend}.`;
  const rest = gone.length === 0 ? "" : " What was said above is left on your screen only.";
  note("moved", where + rest);
}

// ended shows why the connection ended, and starts the timer of the next attempt.
function ended(event) {
  failures++;
  if (isWelcome) {
    const reason = event.reason ? ` “${event.reason}”` : "";
    note("ended", el("b", {}, `Closed with code ${event.code}${reason}.`), ` ${plainWords(event)}`);
    showPresence([]);
  }
  isWelcome = false;
  delete document.body.dataset.backend;
  // The delay doubles each time. It is random, so that clients do not all reconnect
  // at the same moment.
  const wait = Math.min(500 * 2 ** (failures - 1), 8000) * (0.5 + Math.random() / 2);
  timer = setTimeout(connect, wait);
  showConnection(failures === 1 ? "Reconnecting…" : `${whyNot()} Trying again in ${Math.ceil(wait / 1000)} s…`, true);
  refresh();
}

const codes = {
  1000: "The other side was done.",
  1001: "The other side is going away, and took the time to say so.",
  1002: "One side did not understand the protocol.",
  1006: "That is the browser’s own code: the connection broke without a word.",
  1007: "The backend could not read what this page sent.",
  1008: "That was against the rules of the backend.",
  1009: "The message was too big.",
  1011: "The backend ran into an error.",
  1012: "This asks you to come back at once, and you will be sent where the room is now.",
  1013: "This asks you to come back a little later.",
};

// The backends of the quickstart send a reason in their Close frames. The proxy's
// own Close frames have none.
const codesOfProxy = {
  1001: "The proxy is shutting down, and took the time to say so.",
  1012: "The backend broke off without a word, so the proxy said this in its place: come back at once.",
};

function plainWords(event) {
  if (!event.reason && codesOfProxy[event.code]) return codesOfProxy[event.code];
  return codes[event.code] ?? "The page has no words for this code.";
}

// whyNot guesses why no connection could be made: browsers do not tell scripts.
function whyNot() {
  if (!status) return "The quickstart does not answer.";
  if (status.backends.every((b) => !b.running)) return "Both backends are down: the proxy answers 503.";
  return "No connection.";
}

function retryNow() {
  if (timer !== undefined) connect();
}
$("reconnect").addEventListener("click", retryNow);
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") { retryNow(); refresh(); }
});

function showConnection(text, isWaiting = false) {
  $("connection-text").textContent = text;
  $("connection").classList.toggle("is-waiting", isWaiting);
  $("reconnect").hidden = !isWaiting || failures === 1;
  $("send").disabled = !isOnline();
}

// ---- messages

const seen = new Set(); // IDs of messages on the page

function showMessage(m) {
  if (seen.has(m.id)) return;
  seen.add(m.id);
  const before = list.lastElementChild;
  const follows = before?.author === m.author && new Date(m.time) - before.time < 120_000;
  const time = new Date(m.time);
  const e = el("li", { className: "message", author: m.author, time },
    el("span", { className: "avatar", ariaHidden: "true" }, initials(m.author)),
    el("p", { className: "who" }, el("b", {}, m.author || "Somebody"), " ",
      el("time", { dateTime: m.time }, time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }))),
    el("p", { className: "text" }, m.text));
  e.classList.toggle("follows", follows);
  e.classList.toggle("mine", m.author === author);
  e.style.setProperty("--hue", hue(m.author));
  append(e);
  showTraffic();
}

// note adds a line about an event between the messages.
function note(kind, ...children) {
  append(el("li", { className: `note ${kind}` }, el("span", {}, ...children)));
}

// A list that shows its end stays at its end, also when a keyboard opens. A list
// that was scrolled up does not move.
const list = $("messages");
let isAtEnd = true;
list.addEventListener("scroll", () => {
  isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
});
const stay = () => { if (isAtEnd) list.scrollTop = list.scrollHeight; };
new ResizeObserver(stay).observe(list);

function append(e) {
  list.querySelector(".empty")?.remove();
  list.append(e);
  stay();
}

function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("") || "?";
}

function hue(name) {
  let h = 0;
  for (const c of name) h = (h * 31 + c.codePointAt(0)) % 360;
  return h;
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !isOnline()) return;
  socket.send(JSON.stringify({ author, text }));
  $("text").value = "";
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("say").requestSubmit();
  }
});

// ---- who is here

let here = 0;

function showPresence(authors) {
  here = authors.length;
  const others = [...authors];
  const me = others.indexOf(author);
  if (me >= 0) others[me] = "you";
  others.sort((a, b) => (b === "you") - (a === "you"));
  const names = new Intl.ListFormat("en").format(others.map((name) => name || "somebody"));
  $("presence").textContent =
    here === 0 ? "Not connected" : here === 1 ? "Only you are here" : `${here} here: ${names}`;
  refresh();
}

// ---- behind the room: backends, and where rooms are

let status; // the last response of /status; undefined while the quickstart does not respond

async function refresh() {
  try {
    const response = await fetch(`status?${new URLSearchParams({ room })}`);
    status = response.ok ? await response.json() : undefined;
  } catch {
    status = undefined;
  }
  $("backends").hidden = !status;
  for (const b of status?.backends ?? []) showBackend(b);
  for (const r of status?.rooms ?? []) showRoom(r);
  document.body.dataset.down = status ? status.backends.filter((b) => !b.running).map((b) => b.id).join(" ") : "A B";
  showWhy();
}
setInterval(() => { if (document.visibilityState === "visible") refresh(); }, 2000);

function showBackend(b) {
  const card = $(`backend-${b.id}`) ?? newBackend(b.id);
  card.classList.toggle("is-here", b.id === backend && isWelcome);
  card.classList.toggle("is-down", !b.running);
  card.querySelector(".addr").textContent = b.addr;
  card.querySelector(".state").textContent = stateOf(b);
  for (const button of card.querySelectorAll("button")) button.hidden = (button.value === "start") === b.running;
}

function stateOf(b) {
  const tunnels = b.tunnels === 1 ? "1 connection" : `${b.tunnels} connections`;
  if (b.running) {
    return b.state === "failing" ? `running again; the proxy waits a while (30 s at most) before it tries · ${tunnels}` : `running · ${tunnels}`;
  }
  return b.state === "removed" ? "stopped, and taken out of the set" : "dead; the proxy finds out when it dials";
}

function newBackend(id) {
  const button = (action, text) =>
    el("button", { type: "button", value: action, onclick: () => flip(id, action) }, text,
      el("span", { className: "visually-hidden" }, ` backend ${id}`));
  const tile = el("span", { className: "tile", ariaHidden: "true" }, id);
  tile.dataset.id = id;
  const card = el("li", { id: `backend-${id}`, className: "backend" },
    tile,
    el("h3", {}, `Backend ${id} `, el("span", { className: "addr" })),
    el("p", { className: "state" }),
    el("div", { className: "switches" }, button("stop", "Stop"), button("crash", "Pull the plug"), button("start", "Start")));
  $("backends").append(card);
  return card;
}

async function flip(id, action) {
  const card = $(`backend-${id}`);
  const buttons = card.querySelectorAll("button");
  for (const b of buttons) b.disabled = true;
  try {
    const response = await fetch(`backends/${id}/${action}`, { method: "POST" });
    if (!response.ok) note("ended", `Backend ${id} cannot ${action}: ${await response.text()}`);
  } catch {
    note("ended", "The quickstart itself does not answer: is it still running?");
  }
  for (const b of buttons) b.disabled = false;
  await refresh();
  // Focus the button that is shown now, for users of the keyboard.
  if (document.activeElement === document.body) card.querySelector("button:not([hidden])").focus();
}

function showRoom(r) {
  const links = [...$("rooms").querySelectorAll("a")];
  const link = links.find((a) => a.dataset.room === r.name) ?? newRoom(r.name);
  const tile = link.querySelector(".tile");
  const where = r.name === room && isWelcome ? backend : r.choice;
  tile.textContent = tile.dataset.id = where;
  tile.title = where && `on backend ${where}`;
}

function newRoom(name) {
  const link = el("a", { href: `?${new URLSearchParams({ room: name })}` }, name, el("span", { className: "tile" }));
  link.dataset.room = name;
  if (name === room) link.ariaCurrent = "page";
  $("rooms").append(el("li", {}, link));
  return link;
}

// showWhy shows which backend the room is on, and why.
function showWhy() {
  $("here").textContent = isWelcome ? backend : "";
  $("here").dataset.id = backend;
  $("why").replaceChildren(...why());
}

function why() {
  if (!status) return ["The quickstart does not answer. Start it again, and this page comes back by itself."];
  const name = el("code", {}, room);
  if (!isWelcome) return ["Room ", name, " is nowhere now. Reconnecting…"];
  const who = ["", "you are there, and whoever comes next.", "both of you are there."][here] ?? `all ${here} of you are there.`;
  const choice = status.rooms.find((r) => r.name === room)?.choice;
  if (choice === backend) {
    const isAlone = status.backends.some((b) => b.state === "removed");
    return [isAlone ? "With what is left, room " : "Room ", name, ` hashes to backend ${backend}: ${who}`];
  }
  const wanted = status.backends.find((b) => b.id === choice);
  const but = !wanted?.running ? `It does not answer, so the proxy went on to ${backend}: ${who}`
    : wanted.state === "failing" ? `It runs again, but the proxy waits a little. Until then all stay on ${backend}.`
    : `It is back. Whoever comes next is sent there, and the room follows. Until then you stay on ${backend}.`;
  return ["Room ", name, ` hashes to backend ${choice}. ${but}`];
}

// showTraffic starts the animation of the map for a message.
function showTraffic() {
  const map = document.querySelector(".map");
  map.classList.remove("passes");
  void map.getBoundingClientRect(); // so that the animation starts again
  map.classList.add("passes");
}
document.querySelector(".map").addEventListener("animationend", (event) => event.currentTarget.classList.remove("passes"));

// ---- start

document.title = `#${room} · Just done`;
$("room").textContent = `# ${room}`;
$("second-tab").href = `?${new URLSearchParams({ room })}`;
list.append(el("li", { className: "empty" },
  "Nothing said here yet. Open a second tab in this room, and tell it what you just did."));

// On a phone the details are folded: the sentence is what matters.
const isNarrow = matchMedia("(max-width: 1000px)");
const fold = () => { $("behind").open = !isNarrow.matches; };
isNarrow.addEventListener("change", fold);
fold();

connect();
