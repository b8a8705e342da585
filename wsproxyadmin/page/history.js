// The last seconds of the totals, which the sparklines show.

export const seconds = 120;

const names = ["tunnels", "opened", "ended", "refused", "upgrade_p99_ms"];

// A History has a list of values for each name, the newest last. The lists of names are the
// server's. Traffic is recorded here, from when the page was opened.
export class History {
  constructor() {
    for (const name of [...names, "traffic"]) this[name] = [];
  }

  add(o) {
    if (o.complete) for (const name of names) this[name] = [];
    for (const name of names) push(this[name], o.history[name]);
    const { to_backend: up, to_client: down } = o.totals;
    push(this.traffic, [up.bytes_per_second === null ? null : up.bytes_per_second + down.bytes_per_second]);
  }
}

function push(list, values) {
  list.push(...values);
  list.splice(0, list.length - seconds);
}
