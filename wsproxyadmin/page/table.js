// What the tables of backends and of tunnels share.

import { el } from "./el.js";

// startTable adds the head and an empty body to a table, and returns the body. A column without a
// name has actions; those with a name, from firstNumber on, have numbers.
export function startTable(table, columns, firstNumber) {
  table.role = "table"; // the style makes cards of its rows, which would end their roles
  const body = el("tbody", { role: "rowgroup" });
  table.append(
    el("thead", {}, el("tr", { role: "row" }, ...columns.map((name, i) =>
      el("th", { scope: "col", role: "columnheader", className: name && i >= firstNumber ? "is-number" : "" },
        name || el("span", { className: "visually-hidden" }, "Actions"))))),
    body);
  return body;
}

// nameCells adds the names of columns to the cells of a row, from first on: a card shows them.
export function nameCells(row, columns, first) {
  [...row.cells].forEach((cell, i) => { if (i >= first && columns[i]) cell.dataset.name = columns[i]; });
}
