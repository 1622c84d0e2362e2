"use strict";
// Sorting, length switches, one tooltip for hover and keyboard, light and dark. No request anywhere.
const cells = JSON.parse(document.getElementById("cells").textContent);
const tip = document.getElementById("tip");

// ---- tooltip: what a cell was made from
function add(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  tip.append(element);
}
function show(cell) {
  const about = cells[cell.dataset.cell];
  if (!about) return;
  tip.replaceChildren();
  add("strong", about.title);
  add("span", about.score, "big");
  for (const line of about.lines) add("p", line);
  for (const line of about.problems) add("p", line, "bad");
  if (about.commands.length) add("code", about.commands.join("\n"));
  tip.hidden = false;
  const box = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - size.width - 8));
  const below = box.bottom + 6, above = box.top - size.height - 6;
  const top = below + size.height > innerHeight && above > 8 ? above : below;
  tip.style.left = left + scrollX + "px";
  tip.style.top = top + scrollY + "px";
  cell.setAttribute("aria-describedby", "tip");
}
function hide(cell) {
  tip.hidden = true;
  if (cell) cell.removeAttribute("aria-describedby");
}
const cellOf = (event) => event.target.closest && event.target.closest("td[data-cell]");
document.addEventListener("mouseover", (event) => { const cell = cellOf(event); if (cell) show(cell); });
document.addEventListener("mouseout", (event) => {
  const cell = cellOf(event);
  if (cell && cell !== document.activeElement) hide(cell);
});
document.addEventListener("focusin", (event) => { const cell = cellOf(event); if (cell) show(cell); });
document.addEventListener("focusout", (event) => { const cell = cellOf(event); if (cell) hide(cell); });

// ---- keyboard: one stop a table, arrows within it
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return hide(document.activeElement);
  const cell = cellOf(event), step = steps[event.key];
  if (!cell || !step) return;
  event.preventDefault();
  const rows = [...cell.closest("table").tBodies].flatMap((body) => [...body.rows])
    .filter((row) => row.querySelector("td[data-cell]") && !row.hidden);
  let row = rows.indexOf(cell.parentElement), column = cell.cellIndex, next = null;
  while (!next) {
    row += step[0]; column += step[1];
    const beside = rows[row] && rows[row].cells[column];
    if (!beside) return;
    next = beside.matches("td[data-cell]") ? beside : null;
  }
  cell.tabIndex = -1; next.tabIndex = 0; next.focus();
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
});

// ---- sorting: descending or ascending first as a head says, then the other, then as it was
function value(row, column) {
  const given = row.cells[column].dataset.sort;
  if (given === undefined) return null;
  return Number.isNaN(Number(given)) ? given : Number(given);
}
function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}
function order(table, column, direction) {
  const rows = [...table.querySelectorAll("tbody tr:not(.group):not(.mean)")];
  if (!rows[0].dataset.place) rows.forEach((row, place) => { row.dataset.place = place; row.home = row.parentElement; });
  table.querySelectorAll("tr.group").forEach((row) => { row.hidden = direction !== 0; });
  if (direction === 0) {
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
    return rows.forEach((row) => row.home.insertBefore(row, row.home.querySelector("tr.mean")));
  }
  rows.sort((a, b) => {
    const x = value(a, column), y = value(b, column);
    if (x === null || y === null) return (x === null) - (y === null);
    return direction * compare(x, y) || a.dataset.place - b.dataset.place;
  });
  const body = table.tBodies[0];
  rows.forEach((row) => body.insertBefore(row, body.querySelector("tr.mean")));
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("thead button");
  if (!button) return;
  const head = button.closest("th"), table = button.closest("table");
  const first = head.dataset.first === "ascending" ? 1 : -1;
  const before = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")] || 0;
  const direction = before === 0 ? first : before === first ? -first : 0;
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  if (direction) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  order(table, head.cellIndex, direction);
});

// ---- lengths: one choice for every section that has it
document.addEventListener("change", (event) => {
  const length = event.target.dataset.length;
  if (!length) return;
  document.querySelectorAll("section").forEach((section) => {
    const chosen = section.querySelector(`.variant[data-length="${length}"]`);
    if (!chosen) return;
    section.querySelectorAll(".variant").forEach((variant) => { variant.hidden = variant !== chosen; });
    const input = section.querySelector(`input[data-length="${length}"]`);
    if (input) input.checked = true;
  });
});

// ---- light and dark, printing
document.querySelector(".theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((details) => {
  details.open = true; details.dataset.opened = "print";
}));
addEventListener("afterprint", () => document.querySelectorAll("details[data-opened]").forEach((details) => {
  details.open = false; delete details.dataset.opened;
}));
