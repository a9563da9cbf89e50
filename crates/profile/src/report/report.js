"use strict";
const show = (group, open) => {
  const fold = group.querySelector("button.fold");
  if (!fold) return;
  fold.setAttribute("aria-expanded", open);
  for (const row of group.querySelectorAll("tr.member")) row.hidden = !open;
};
for (const table of document.querySelectorAll("table.operations")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (group, column) => {
    const cell = group.rows[0].cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const groups = [...table.tBodies];
    const words = typeof value(groups[0], column) === "string";
    // Words and ranks begin at the front, numbers with the largest.
    const first = words || column === 0 ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    groups.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      return sign * (words ? x.localeCompare(y) : x - y);
    });
    table.append(...groups);
  }));
  table.addEventListener("click", (event) => {
    const fold = event.target.closest("button.fold");
    if (fold) show(fold.closest("tbody"), fold.getAttribute("aria-expanded") !== "true");
  });
  const all = table.closest("section").querySelector("button.unfold");
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-expanded") !== "true";
    all.setAttribute("aria-expanded", open);
    all.textContent = open ? "fold all layers" : "unfold all layers";
    for (const group of table.tBodies) show(group, open);
  });
}
for (const zoom of document.querySelectorAll("input.zoom")) {
  const wide = zoom.closest("section").querySelector(".wide");
  zoom.addEventListener("input", () => { wide.style.width = `${100 * zoom.value}%`; });
}
