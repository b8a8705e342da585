// Helpers to build the page. Texts are added as text nodes only, never as HTML.

export const $ = (id) => document.getElementById(id);

// el creates an element. Children that are strings become text.
export function el(tag, props = {}, ...children) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
}

// hidden returns a text that only screen readers show.
export const hidden = (text) => el("span", { className: "visually-hidden" }, text);

// tile returns the coloured letter of a backend. A screen reader reads "backend A".
export function tile(id) {
  const e = el("span", { className: "tile" }, el("span", { ariaHidden: "true" }, id || "–"),
    hidden(id ? `backend ${id}` : "no backend"));
  e.dataset.id = id;
  return e;
}

export const initial = (name) => [...name.trim()][0]?.toUpperCase() ?? "?";

// hue returns the hue of a person's colour. With the golden angle, names that begin with
// neighbouring letters have colours that differ.
export const hue = (name) => Math.round((initial(name).codePointAt(0) * 137.5 + 272) % 360);
