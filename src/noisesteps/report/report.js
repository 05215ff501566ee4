"use strict";

// Every part of the page can be read without this script. It adds: tables that sort,
// figures that open at full size, commands that copy themselves.

function sortableTable(table) {
  const body = table.tBodies[0];
  const asWritten = [...body.rows];
  if (asWritten.length < 2) return;
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(head, body, asWritten));
    head.append(button);
  }
}

// A first press sorts upwards, a second downwards, a third restores the order.
function sortBy(head, body, asWritten) {
  const order = { ascending: "descending", descending: null }[
    head.getAttribute("aria-sort")
  ];
  const next = order === undefined ? "ascending" : order;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  if (next) head.setAttribute("aria-sort", next);
  const rows = [...asWritten];
  if (next) {
    const compare = head.classList.contains("number") ? compareNumbers : compareWords;
    const sign = next === "ascending" ? 1 : -1;
    const column = head.cellIndex;
    rows.sort((left, right) => compare(left.cells[column], right.cells[column], sign));
  }
  body.append(...rows);
}

// Cells without a number stay last, whatever the order.
function compareNumbers(left, right, sign) {
  const has = [left, right].map((cell) => "key" in cell.dataset);
  if (!has[0] || !has[1]) return has[1] - has[0];
  return sign * (Number(left.dataset.key) - Number(right.dataset.key));
}

const collator = new Intl.Collator("en", { numeric: true });

function compareWords(left, right, sign) {
  return sign * collator.compare(left.textContent, right.textContent);
}

const viewer = document.getElementById("viewer");
const stage = viewer.querySelector(".stage");
const figures = [...document.querySelectorAll("figure")];
const ZOOM = 1.5;
let shown = 0;

function show(number) {
  shown = (number + figures.length) % figures.length;
  const figure = figures[shown];
  const image = figure.querySelector("img").cloneNode();
  document.getElementById("viewer-title").textContent =
    figure.querySelector("strong").textContent;
  const save = viewer.querySelector("[data-do=save]");
  save.href = image.src;
  save.download = `${figure.id}.png`;
  stage.replaceChildren(image);
  if (!viewer.open) viewer.showModal();
  stage.scrollTo(0, 0);
}

function zoom(factor) {
  const image = stage.firstChild;
  const width = Math.round(image.width * factor);
  if (width < 100 || width > 10000) return;
  image.height = Math.round(image.height * factor);
  image.width = width;
  image.classList.toggle("grown", width > image.naturalWidth);
}

const actions = {
  previous: () => show(shown - 1),
  next: () => show(shown + 1),
  smaller: () => zoom(1 / ZOOM),
  larger: () => zoom(ZOOM),
  close: () => viewer.close(),
};
const keys = { p: "previous", n: "next", "-": "smaller", "+": "larger", "=": "larger" };

viewer.addEventListener("click", (event) => {
  if (event.target === viewer) return viewer.close();
  const chosen = actions[event.target.dataset.do];
  if (chosen) chosen();
});
viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  actions[keys[event.key]]();
});
figures.forEach((figure, number) => {
  const button = figure.querySelector(".open");
  button.addEventListener("click", () => show(number));
  figure.querySelector("img").addEventListener("click", () => button.click());
});

async function copy(button) {
  const command = document.getElementById(button.dataset.copy);
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(command.textContent);
  } catch {
    getSelection().selectAllChildren(command);
    said = "Selected; copy it with the keyboard";
  }
  document.getElementById("said").textContent = said;
  button.textContent = said;
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

// What scrolls sideways on a phone can be scrolled with the keyboard, too.
for (const card of document.querySelectorAll(".card")) {
  if (card.scrollWidth > card.clientWidth) card.tabIndex = 0;
}
for (const table of document.querySelectorAll("table")) sortableTable(table);
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => copy(button));
}
for (const hidden of document.querySelectorAll("button[hidden], .scripted[hidden]")) {
  hidden.hidden = false;
}
document.documentElement.classList.add("js");
