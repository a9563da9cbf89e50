"use strict";
for (const table of document.querySelectorAll("table.operations")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = !head.classList.contains("down");
    heads.forEach((other) => other.classList.remove("up", "down"));
    head.classList.add(down ? "down" : "up");
    const value = (row) => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
    // A row's layers lie in the row behind it and move along.
    const pairs = [...body.querySelectorAll(":scope > tr.row")].map((row) => [row, row.nextElementSibling]);
    pairs.sort(([a], [b]) => (down ? -1 : 1) * order(value(a), value(b)));
    for (const [row, members] of pairs) body.append(row, members);
  }));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr.row");
    if (row) row.nextElementSibling.hidden = !row.nextElementSibling.hidden;
  });
}
