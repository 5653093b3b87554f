"use strict";
// sorts tables by the head that is clicked: numbers as numbers, what has none last
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const numeric = head.classList.contains("n"), sign = up ? 1 : -1;
    const rows = Array.from(body.rows, (row) => [row.cells[head.cellIndex].dataset.key, row]);
    const order = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b);
    const missing = (key) => key === "" || (numeric && Number.isNaN(Number(key)));
    rows.sort(([a], [b]) => missing(a) - missing(b) || sign * order(a, b));
    body.append(...rows.map(([, row]) => row));
  });
}
// the theme follows the system until it is chosen
const root = document.documentElement, theme = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const named = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; named(); });
system.addEventListener("change", named);
named();
// a listing prints open
window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details.listing")) each.open = true;
});
