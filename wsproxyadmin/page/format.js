// Figures as texts of a width that hardly changes.

const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// count returns 12,345.
export const count = (n) => number.format(n);

// plural returns "1 tunnel" or "12,345 tunnels".
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

// rate returns a number a second: 0, 0.3, 12, 1,234.
export function rate(perSecond) {
  if (perSecond === 0) return "0";
  if (perSecond < 0.1) return "<0.1";
  return perSecond < 10 ? perSecond.toFixed(1) : number.format(Math.round(perSecond));
}

// bytes returns 512 B, 1.2 kB, 34 MB.
export function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (n < 999.5 || unit === "TB") return `${n < 9.95 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
}

// latency returns a duration of seconds that may be short: 0.4 ms, 12 ms, 1.5 s.
export function latency(seconds) {
  if (seconds < 0.00995) return `${+(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  return seconds < 9.95 ? `${seconds.toFixed(1)} s` : duration(seconds);
}

// duration returns the two largest units: 8 s, 4 min 05 s, 3 h 12 min, 6 d 04 h.
export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return `${Math.floor(s / 86400)} d ${two(Math.floor(s / 3600) % 24)} h`;
}

// about returns a duration by its largest unit: 8 s, 4 min, 3 h, 6 d.
export function about(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return s < 86400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
}

export const percent = (share) => `${Math.round(share * 100)} %`;

// timeOfDay returns 03:14:07, in the time zone of the browser.
export const timeOfDay = (t) => clock.format(new Date(t));

// since returns the time of day, and the date if that is more than half a day away from now.
export const since = (t, now) => (Math.abs(now - t) < 43_200_000 ? timeOfDay(t) : date.format(new Date(t)));

// shortError returns the text of an error without what is known where it is shown: the prefix of
// the package, the status of a refusal, and that it is about the backend with that ID. An error of
// several attempts has a line for each.
export function shortError(text, id = "") {
  const lines = text.split("\n").filter(Boolean);
  if (lines.length > 1) return lines.map((line) => shortError(line)).join("; ");
  const own = text.replace(/^wsproxy: /, "").replace(/^client's request refused with \d+: /, "");
  const about = id && [`dial backend ${id}: `, `probe of backend ${id}: `, `backend ${id}: `].find((prefix) => own.startsWith(prefix));
  return about ? own.slice(about.length) : own;
}
