// A Person is a client of the chat: one WebSocket that reconnects when it ends, and a
// panel that shows it.

import { el, hue, initial, tile } from "./el.js";

export class Person {
  // The page has the functions changed(), spoke(person) and remove(person).
  constructor({ id, name, room }, page) {
    Object.assign(this, { id, name, room, page });
    this.backend = "";       // ID of the backend of the last welcome
    this.memory = "";        // ID of that backend's memory, different after each start
    this.isOnline = false;   // the connection is open and has got its welcome
    this.failures = 0;       // attempts that have failed in succession
    this.refusal = "";       // the response that refused the last attempt, such as "503 Service Unavailable"
    this.timer = undefined;  // of the next attempt
    this.seen = new Set();   // IDs of the messages in the panel
    this.build();
    this.connect();
  }

  // ---- the connection

  connect() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.refusal = "";
    const url = new URL("chat", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ room: this.room, author: this.name, client: this.id });
    this.socket = new WebSocket(url);
    this.socket.addEventListener("message", (event) => this.receive(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => this.ended(event));
    this.show();
  }

  receive(message) {
    switch (message.type) {
      case "welcome": return this.welcome(message);
      case "presence": return this.showOthers(message.authors);
      case "message": return this.showMessage(message);
    }
  }

  welcome(w) {
    if (this.memory) this.tellWhatIsLeft(w);
    Object.assign(this, { backend: w.backend, memory: w.memory, isOnline: true, failures: 0 });
    for (const message of w.history) this.showMessage(message);
    this.show();
  }

  // ended shows why the connection ended, and starts the timer of the next attempt.
  ended(event) {
    if (this.isRemoved) return;
    this.failures++;
    if (this.isOnline) this.note("ended", el("b", {}, plainWords(event, this.backend)), ` Code ${event.code}.`);
    this.isOnline = false;
    this.showOthers([]);
    // The delay doubles each time. It is random, so that clients do not all reconnect
    // at the same moment.
    const wait = Math.min(500 * 2 ** (this.failures - 1), 8000) * (0.5 + Math.random() / 2);
    this.wait = Math.ceil(wait / 1000);
    this.timer = setTimeout(() => this.connect(), wait);
    this.show();
  }

  // retryNow connects at once if the person waits for the next attempt.
  retryNow() {
    if (this.timer !== undefined) this.connect();
  }

  // refused is called with the response that refused an attempt. Browsers do not tell it
  // to scripts: it comes from the events of the quickstart.
  refused(response) {
    this.refusal = response;
    this.show();
  }

  rename(name) {
    this.name = name.trim() || this.name;
    this.nameInput.value = this.name;
    if (this.isOnline) this.socket.send(JSON.stringify({ author: this.name }));
    this.show();
  }

  say(text) {
    if (!text || !this.isOnline) return;
    this.socket.send(JSON.stringify({ author: this.name, text }));
    this.textInput.value = "";
    this.page.spoke(this);
  }

  leave() {
    this.isRemoved = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
    this.panel.remove();
  }

  // ---- the panel

  build() {
    this.avatar = el("span", { className: "avatar", ariaHidden: "true" });
    this.nameInput = el("input", {
      className: "name", value: this.name, maxLength: 40, autocomplete: "off", spellcheck: false, ariaLabel: "Name",
      onchange: () => this.rename(this.nameInput.value),
    });
    this.tile = el("span");
    this.leaveButton = el("button", { type: "button", className: "leave", onclick: () => this.page.remove(this) }, "×");
    this.others = el("p", { className: "others" });
    this.list = el("ol", { className: "messages", tabIndex: 0, role: "log" },
      el("li", { className: "empty" }, "No messages yet."));
    this.connection = el("span");
    this.retryButton = el("button", { type: "button", onclick: () => this.retryNow() }, "Try now");
    this.textInput = el("input", { maxLength: 2000, autocomplete: "off", placeholder: `Message to #${this.room}` });
    this.sendButton = el("button", { className: "send" }, "Send");
    const form = el("form", {
      className: "say",
      onsubmit: (event) => { event.preventDefault(); this.say(this.textInput.value.trim()); },
    }, this.textInput, this.sendButton);
    this.panel = el("article", { className: "panel person" },
      el("header", {}, this.avatar,
        el("div", {}, this.nameInput, this.others),
        this.tile, this.leaveButton),
      this.list,
      el("p", { className: "connection", role: "status" }, this.connection, this.retryButton),
      form);
    this.panel.dataset.client = this.id;
    // A list that shows its end stays at its end, also when its height changes.
    this.isAtEnd = true;
    this.list.addEventListener("scroll", () => {
      this.isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    });
    new ResizeObserver(() => this.stayAtEnd()).observe(this.list);
    this.showOthers([]);
  }

  show() {
    const where = this.isOnline ? this.backend : "";
    this.panel.dataset.backend = where;
    this.panel.style.setProperty("--hue", hue(this.name));
    this.panel.ariaLabel = `${this.name} in #${this.room}`;
    this.avatar.textContent = initial(this.name);
    const newTile = tile(where);
    this.tile.replaceWith(newTile);
    this.tile = newTile;
    this.list.ariaLabel = `Messages that ${this.name} sees`;
    this.textInput.ariaLabel = `Message from ${this.name}`;
    this.leaveButton.ariaLabel = this.leaveButton.title = `Remove ${this.name}`;
    const text = this.connectionText();
    if (text !== this.connection.textContent) this.connection.textContent = text;
    this.retryButton.hidden = this.timer === undefined || this.failures < 2;
    this.sendButton.disabled = !this.isOnline;
    this.page.changed();
  }

  connectionText() {
    if (this.isOnline) return `Connected to backend ${this.backend}.`;
    if (this.timer === undefined && this.failures < 2) return "Connecting…";
    const wait = this.wait > 1 ? `Next attempt within ${this.wait} s.` : "Trying again…";
    return this.refusal ? `Offline (${this.refusal}). ${wait}` : `Offline. ${wait}`;
  }

  showOthers(authors) {
    const others = [...authors];
    const me = others.indexOf(this.name);
    if (me >= 0) others.splice(me, 1);
    const names = new Intl.ListFormat("en").format(others.map((name) => name || "somebody"));
    const short = others.length > 1 ? `${others.length} others` : names;
    this.others.textContent = others.length ? `#${this.room} with ${short}` : `#${this.room}`;
    this.others.title = names;
  }

  showMessage(m) {
    if (this.seen.has(m.id)) return;
    this.seen.add(m.id);
    const e = el("li", { className: "message" }, el("b", {}, m.author || "Somebody"), el("span", { className: "text" }, m.text));
    e.classList.toggle("mine", m.author === this.name);
    e.classList.toggle("follows", this.list.lastElementChild?.author === m.author);
    e.author = m.author;
    e.style.setProperty("--hue", hue(m.author));
    this.append(e);
  }

  // tellWhatIsLeft marks the messages that the backend does not have.
  tellWhatIsLeft(w) {
    if (w.memory === this.memory) {
      this.note("moved", `Back on backend ${w.backend}. It still has the messages.`);
      return;
    }
    const gone = this.list.querySelectorAll(".message:not(.lost)");
    for (const message of gone) message.classList.add("lost");
    const where = w.backend === this.backend ? `Backend ${w.backend} has restarted.` : `Now on backend ${w.backend}.`;
    this.note("moved", gone.length ? `${where} It does not have the messages above.` : where);
  }

  // note adds a line about the connection between the messages.
  note(kind, ...children) {
    this.append(el("li", { className: `note ${kind}` }, el("span", {}, ...children)));
  }

  // append adds e to the messages. A list that was scrolled up does not move.
  append(e) {
    this.list.querySelector(".empty")?.remove();
    this.list.append(e);
    this.stayAtEnd();
  }

  stayAtEnd() {
    if (this.isAtEnd) this.list.scrollTop = this.list.scrollHeight;
  }
}

// plainWords says why the connection to a backend ended. The quickstart and the proxy
// send a reason in their Close frames.
function plainWords(event, backend) {
  const { code, reason } = event;
  if (code === 1006) return "The connection broke without a Close frame.";
  if (code === 1012 && reason === "backend lost") return `Backend ${backend} dropped the connection.`;
  if (code === 1012 && reason === "backend down") return `Backend ${backend} does not answer.`;
  if (code === 1012 && reason === "reconnect") return `Backend ${backend} drains.`;
  if (code === 1012) return `Closed to reconnect: ${reason || "service restart"}.`;
  if (code === 1001) return `Closed: ${reason || "the other side is going away"}.`;
  return `Closed: ${reason || "no reason was given"}.`;
}
