// Helpers to build the page. Texts are added as text nodes only, never as HTML.

export const $ = (id) => document.getElementById(id);

// el creates an element. Children that are strings become text.
export function el(tag, props = {}, ...children) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
}

// svg creates an element of SVG.
export function svg(tag, attributes = {}, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

// setText changes a text only if it is another one. So a screen reader does not read it again,
// and the browser does not lay it out again.
export function setText(e, text) {
  const node = e.firstChild;
  if (node === null) {
    if (text !== "") e.append(text);
  } else if (node.data !== text) {
    node.data = text;
  }
}

// setAttribute changes an attribute only if it has another value.
export function setAttribute(e, name, value) {
  if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

// setTitled is setText for a text that may be cut off: the whole of it is shown beside the
// pointer.
export function setTitled(e, text) {
  setText(e, text);
  if (e.title !== text) e.title = text;
}

// Rows are the children of an element, one for each item of a list. A row stays the same element
// as long as its key is in the list, so that it keeps its focus and its place.
export class Rows {
  // build(key, item) returns a new element, and update(row, item) shows an item in it.
  constructor(parent, build, update) {
    Object.assign(this, { parent, build, update, byKey: new Map() });
  }

  show(items, keyOf) {
    const gone = new Map(this.byKey);
    let place = this.parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      let row = gone.get(key);
      if (row) gone.delete(key);
      else this.byKey.set(key, row = this.build(key, item));
      this.update(row, item);
      if (row === place) place = place.nextElementSibling;
      else this.parent.insertBefore(row, place);
    }
    for (const [key, row] of gone) {
      this.byKey.delete(key);
      row.remove();
    }
  }
}
