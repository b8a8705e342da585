// A sparkline: the last minutes of one or two figures, as inline SVG.

import { setAttribute, svg } from "./el.js";

const width = 120, height = 28; // of the coordinates; the style says how large it is

// A Sparkline is decoration: the figure beside it is what a screen reader reads.
export class Sparkline {
  constructor() {
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.svg = svg("svg", {
      class: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true",
    }, this.area, this.line);
  }

  // show draws values, the newest last, at the right. Capacity is the number of values of the
  // whole width. A value of null is a gap.
  show(values, capacity) {
    const top = Math.max(...values.map((v) => v ?? 0), 0) || 1;
    const x = (i) => (width * (capacity - values.length + i) / (capacity - 1)).toFixed(1);
    const y = (v) => (height - 1.5 - (height - 3) * v / top).toFixed(1);
    let line = "", area = "", from = -1;
    values.forEach((v, i) => {
      if (v === null) return;
      if (from < 0) from = i;
      line += `${from === i ? "M" : "L"}${x(i)} ${y(v)}`;
      if (i + 1 === values.length || values[i + 1] === null) {
        area += `M${x(from)} ${height}` + line.slice(line.lastIndexOf("M")).replace("M", "L") + `L${x(i)} ${height}Z`;
        from = -1;
      }
    });
    setAttribute(this.line, "d", line);
    setAttribute(this.area, "d", area);
  }
}
