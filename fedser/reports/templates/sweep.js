"use strict";

const { facets, attacks, figures } = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const body = document.querySelector("#runs tbody");
const headings = [...document.querySelectorAll("#runs thead th")];
// Sources of the figures, and all that they hold while nothing is filtered.
const dots = [];

function chosenAttack() {
  return new FormData(form).get("attack") ?? "";
}

// Runs that have one of the chosen values of every facet, and the chosen attack.
function visibleRuns() {
  const chosen = [...form.querySelectorAll("fieldset[data-facet]")].map((facet) => [
    facets[facet.dataset.facet],
    new Set([...facet.querySelectorAll(":checked")].map((box) => box.value)),
  ]);
  const attack = chosenAttack();
  const runs = [...body.rows].map((row) => Number(row.dataset.run));
  return new Set(
    runs.filter(
      (run) =>
        chosen.every(([values, wanted]) => !wanted.size || wanted.has(values[run])) &&
        (attack === "" || attacks[attack][run][1][1] !== null),
    ),
  );
}

function mean(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

// Lines through the means of repeated runs, by line and size of the dots.
function linesThrough(data) {
  const lines = new Map();
  data.run.forEach((_, i) => {
    if (data.line[i] === null) return;
    const key = JSON.stringify([data.line[i], data.size[i]]);
    const line = lines.get(key) ?? { color: data.color[i], size: data.size[i], means: new Map() };
    const repeated = line.means.get(data.configured[i]) ?? { x: [], y: [] };
    repeated.x.push(data.x[i]);
    repeated.y.push(data.y[i]);
    line.means.set(data.configured[i], repeated);
    lines.set(key, line);
  });
  const drawn = { xs: [], ys: [], color: [], dash: [] };
  const largest = Math.max(...data.size);
  for (const { color, size, means } of lines.values()) {
    const places = [...means.values()].map(({ x, y }) => [mean(x), mean(y)]);
    places.sort((a, b) => a[0] - b[0]);
    drawn.xs.push(places.map((place) => place[0]));
    drawn.ys.push(places.map((place) => place[1]));
    drawn.color.push(color);
    drawn.dash.push(size === largest ? [] : [5, 4]);
  }
  return drawn;
}

function update() {
  const runs = visibleRuns();
  const attack = chosenAttack();
  for (const row of body.rows) {
    const run = Number(row.dataset.run);
    row.hidden = !runs.has(run);
    for (const cell of row.querySelectorAll("[data-leak]")) {
      const [text, key] = attacks[attack][run][Number(cell.dataset.leak)];
      cell.textContent = text;
      if (key === null) delete cell.dataset.key;
      else cell.dataset.key = key;
    }
  }
  document.getElementById("count").textContent = `${runs.size} of ${body.rows.length} runs`;
  for (const { element, source, lines, all } of dots) {
    element.hidden = !all.run.some((run) => runs.has(run));
    const kept = [...all.run.keys()].filter(
      (i) => runs.has(all.run[i]) && (all.attack[i] === null || all.attack[i] === attack),
    );
    const data = Object.fromEntries(
      Object.entries(all).map(([name, values]) => [name, kept.map((i) => values[i])]),
    );
    source.data = data;
    lines.data = linesThrough(data);
  }
}

// Numbers by value, texts by alphabet; rows without a key stay last.
function sortBy(column) {
  const heading = headings[column];
  const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column]?.dataset.key;
  const compare = (a, b) => {
    const apart = Number(a) - Number(b);
    return Number.isNaN(apart) ? a.localeCompare(b) : apart;
  };
  const rows = [...body.rows];
  const known = rows.filter((row) => key(row) !== undefined);
  known.sort((a, b) => sign * compare(key(a), key(b)));
  body.append(...known, ...rows.filter((row) => key(row) === undefined));
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.ariaSort = order;
}

headings.forEach((heading, column) => {
  heading.querySelector("button").addEventListener("click", () => sortBy(column));
});
form.addEventListener("change", update);
form.addEventListener("reset", () => setTimeout(update)); // once it is reset
update();
figures.forEach(async (figure, number) => {
  const views = await Bokeh.embed.embed_item(figure, `figure-${number}`);
  const element = document.getElementById(`figure-${number}`).parentElement;
  const { document: drawn } = views.roots[0].model;
  for (const panel of ["uar", "auc"]) {
    const source = drawn.get_model_by_name(`${panel}-dots`);
    const lines = drawn.get_model_by_name(`${panel}-lines`);
    dots.push({ element, source, lines, all: source.data });
  }
  update();
});
