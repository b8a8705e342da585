// The stream of overviews, by server-sent events. It connects again when it ends, and when it
// is silent.

const silence = 4000;           // ms without an overview until the stream counts as lost: it has one each second
const waits = [500, 1000, 2000]; // ms until the next attempt; the last one is repeated

// A Stream calls
//
//	received(overview)  for each overview
//	changed(state)      when it becomes "live", "lost", "refused" or "paused"
//
// Its error says why it is refused: the server's own words. It is paused while the page is not
// visible, because a browser has few connections to a server: tabs in the background would use
// them up.
export class Stream {
  constructor(url, { received, changed }) {
    Object.assign(this, { url, received, changed });
    this.state = "connecting";
    this.error = "";
    this.attempts = 0; // since the last overview
    addEventListener("online", () => this.connect());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.connect();
      else this.pause();
    });
    this.connect();
  }

  connect() {
    this.source?.close();
    clearTimeout(this.timer);
    const source = this.source = new EventSource(this.url);
    source.addEventListener("message", (event) => {
      this.attempts = 0;
      this.expect();
      this.received(JSON.parse(event.data));
      this.set("live");
    });
    // The browser would try again by itself, but not after each kind of error.
    source.addEventListener("error", () => { if (this.source === source) this.lose(); });
    this.expect();
  }

  pause() {
    this.source.close();
    this.source = undefined;
    clearTimeout(this.timer);
    this.set("paused");
  }

  // expect sets the time until which the next overview must have come.
  expect() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lose(), silence);
  }

  async lose() {
    const source = this.source;
    source.close();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), waits[Math.min(this.attempts++, waits.length - 1)]);
    if (this.state !== "refused") this.set("lost");
    // An EventSource does not tell its status.
    try {
      const response = await fetch("overview", { signal: AbortSignal.timeout(silence) });
      const text = response.ok ? "" : await response.text();
      if (this.source !== source) return; // connected again meanwhile
      this.error = text;
      this.set(response.ok ? "lost" : "refused");
    } catch {
      if (this.source === source) this.set("lost");
    }
  }

  set(state) {
    if (this.state === state) return;
    this.state = state;
    this.changed(state);
  }
}
