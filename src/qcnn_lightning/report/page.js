// Chooses which runs the page shows, and in which colours. All that it shows is there already: charts and table rows
// carry marks as classes (r3: a run, e1: a group of seeds, d0: a data set, c2: a chart), and one style sheet hides and
// colours marks. A chart is put into the page when it comes into view.

const report = JSON.parse(document.getElementById("report").textContent);
const root = document.documentElement;
const state = { chosen: {}, colour: report.colour, curves: "runs" };
let shown = new Set();

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const isShown = ({ settings }) => settings.every((value, i) => !state.chosen[i]?.length || state.chosen[i].includes(value));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function show() {
  const runs = report.runs.filter(isShown);
  shown = new Set(runs.map((run) => `r${run.index}`));
  const { colours } = report.filters[state.colour];
  const hidden = report.runs.filter((run) => !shown.has(`r${run.index}`)).map((run) => `.r${run.index}`);
  const rules = new Map(colours.map((colour) => [colour, []]));
  for (const run of report.runs) rules.get(colours[run.settings[state.colour]]).push(`.r${run.index}`);
  for (const [mark, members] of Object.entries(report.sets)) {
    const first = members.find((index) => shown.has(`r${index}`));
    if (first === undefined) hidden.push(`.${mark}`);
    else rules.get(colours[report.runs[first].settings[state.colour]]).push(`.${mark}`);
  }
  const sheet = [...rules].map(([colour, marks]) => marks.length ? `${marks.join()}{--run:${colour}}` : "");
  if (hidden.length) sheet.push(`${hidden.join()}{display:none}`, `${hidden.map((mark) => `${mark}+.reason`).join()}{display:grid}`);
  document.getElementById("shown").textContent = sheet.join("\n");
  root.dataset.curves = state.curves;
  drawTiles(runs);
  drawLegends(runs);
  const told = Object.entries(state.chosen).filter(([, values]) => values.length).map(([i, values]) => values.map((value) => report.filters[i].phrases[value]).join(" or "));
  document.getElementById("chosen").textContent = told.length ? `: ${told.join(", ")}` : "";
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-pressed", isPressed(button.dataset));
  document.getElementById("hover").hidden = true;
}

function isPressed({ filter, value }) {
  if (filter === "colour") return state.colour === Number(value);
  if (filter === "curves") return state.curves === value;
  return value === "all" ? !state.chosen[filter]?.length : Boolean(state.chosen[filter]?.includes(Number(value)));
}

function choose({ filter, value }) {
  if (filter === "colour") state.colour = Number(value);
  else if (filter === "curves") state.curves = value;
  else if (value === "all") delete state.chosen[filter];
  else {
    const chosen = new Set(state.chosen[filter]);
    chosen.delete(Number(value)) || chosen.add(Number(value));
    state.chosen[filter] = chosen.size < report.filters[filter].values.length ? [...chosen] : [];
  }
}

// In words, so that the address of a page that has grown meanwhile, or a link sent to somebody, shows the same.
function remember() {
  const chosen = Object.entries(state.chosen).map(([i, values]) => [report.filters[i].key, values.map((value) => report.filters[i].values[value])]);
  const kept = { chosen, colour: report.filters[state.colour].key, curves: state.curves };
  history.replaceState({ focus: { ...document.activeElement?.dataset } }, "", `#${encodeURIComponent(JSON.stringify(kept))}`);
}

function recall() {
  try {
    const { chosen, colour, curves } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    const place = (key) => report.filters.findIndex((filter) => filter.key === key);
    for (const [key, values] of chosen)
      if (place(key) >= 0) state.chosen[place(key)] = values.map((value) => report.filters[place(key)].values.indexOf(value)).filter((i) => i >= 0);
    if (place(colour) >= 0) state.colour = place(colour);
    if (curves === "means") state.curves = curves;
  } catch {
    // No choice in the address.
  }
}

function drawTiles(runs) {
  const tiles = [["runs shown", `${runs.length} of ${report.runs.length}`]];
  for (const data of new Set(runs.map((run) => run.data))) {
    const members = runs.filter((run) => run.data === data);
    const best = Math.max(...members.map((run) => run.best ?? -1));
    if (best >= 0) tiles.push([`best test accuracy, ${data}`, `${(100 * best).toFixed(2)}%`]);
    const known = members.map((run) => run.correlation).filter((value) => value !== null);
    if (known.length) tiles.push([`Spearman, EE and train cost, ${data}: mean of runs`, mean(known).toFixed(2).replace("-", "−")]);
  }
  document.getElementById("tiles").replaceChildren(
    ...tiles.map(([name, value]) => element("div", { className: "tile" }, element("b", { textContent: value }), element("span", { textContent: name }))),
  );
}

function drawLegends(runs) {
  const { phrases, colours } = report.filters[state.colour];
  const values = [...new Set(runs.map((run) => run.settings[state.colour]))].sort((a, b) => a - b);
  const entries = () => values.map((value) => {
    const line = element("i");
    line.style.setProperty("--run", colours[value]);
    return element("span", {}, line, phrases[value]);
  });
  for (const legend of document.querySelectorAll(".legend")) legend.replaceChildren(...entries());
}

// The points of all paths of a chart, in the coordinates of its panel.
function pointsOf(panel) {
  panel.points ??= [...panel.querySelectorAll("path:not(.band)")].map((path) => {
    const points = [];
    let [x, y] = [0, 0];
    for (const [, command, numbers] of path.getAttribute("d").matchAll(/([MlmhZz])([^A-Za-z]*)/g)) {
      const steps = (numbers.match(/-?\d+/g) ?? []).map(Number);
      if (command === "M") [x, y] = [0, 0];
      for (let i = 0; i + 1 < steps.length; i += 2) points.push([(x += steps[i]), (y += steps[i + 1])]);
    }
    return { path, mark: path.classList[0], points };
  });
  return panel.points;
}

function nearest(panel, event) {
  const box = panel.getScreenCTM().inverse();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(box);
  const reach = 20 * box.a;
  let found = { distance: reach ** 2 };
  for (const { path, mark, points } of pointsOf(panel)) {
    if (getComputedStyle(path).display === "none") continue;
    for (const [x, y] of points) {
      const distance = (x - at.x) ** 2 + (y - at.y) ** 2;
      if (distance < found.distance) found = { distance, mark, x, y, dashed: path.classList.contains("dashed") };
    }
  }
  return found.mark && found;
}

function readOff(scale, part) {
  const [low, high, kind] = scale.split(" ");
  const [a, b] = kind === "log" ? [Math.log(low), Math.log(high)] : [Number(low), Number(high)];
  const value = a + (b - a) * part;
  return kind === "log" ? Math.exp(value) : value;
}

function written(name, value) {
  const label = name.replace(/ \([^()]* not shown\)$/, "");
  if (label === "epoch" || label.startsWith("channel") || label.startsWith("trained")) return `${label} ${Math.round(value).toLocaleString("en")}`;
  return label.includes("accuracy") ? `${label} ${(100 * value).toFixed(2)}%` : `${label} ${value.toPrecision(3)}`;
}

function hover(event) {
  const panel = event.target.closest?.(".plot")?.querySelector(".data");
  const found = panel && nearest(panel, event);
  const box = document.getElementById("hover");
  box.hidden = !found;
  root.style.cursor = found ? "pointer" : "";
  if (!found) return null;
  const { width, height } = panel.viewBox.baseVal;
  const { x, y, xLabel, yLabel } = panel.dataset;
  const numbers = [written(xLabel, readOff(x, found.x / width)), written(yLabel, readOff(y, 1 - found.y / height))];
  if (found.dashed) numbers[1] += " (train)";
  const run = found.mark[0] === "r" ? report.runs[found.mark.slice(1)] : null;
  const about = run ? [run.label, run.name, run.command] : [report.groups[found.mark]];
  box.replaceChildren(element("b", { textContent: numbers.join(", ") }), ...about.map((line) => element("div", { textContent: line })));
  box.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${event.clientY + 18 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 12 : event.clientY + 18}px`;
  return run;
}

function sortBy(head) {
  const column = [...head.parentNode.children].indexOf(head);
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.ariaSort = direction > 0 ? "ascending" : "descending";
  const body = head.closest("table").tBodies[0];
  const valueOf = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const compare = (a, b) => ((a === "–") - (b === "–")) || direction * a.localeCompare(b, "en", { numeric: true });
  const numeric = (a, b) => (a === "–" || b === "–" ? compare(a, b) : direction * (a - b));
  const all = [...body.rows];
  const order = all.some((row) => row.cells[column].dataset.sort) ? numeric : compare;
  body.append(...all.sort((a, b) => order(valueOf(a), valueOf(b))));
}

const insert = (plot) => plot.firstChild || (plot.innerHTML = report.charts[plot.dataset.chart]);
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    insert(target);
    watcher.unobserve(target);
  }
  root.dataset.drawn = "yes";
}, { rootMargin: "150px" });

report.runs.forEach((run, index) => (run.index = index));
recall();
show();
// On a phone the filters are folded away until they are asked for.
const phone = matchMedia("(max-width: 700px)");
const fold = () => (document.querySelector("#filters details").open = !phone.matches);
phone.addEventListener("change", fold);
fold();
// A page that follows its runs reloads itself: who chooses by keyboard goes on where they were.
const { filter, value } = history.state?.focus ?? {};
if (filter) document.querySelector(`nav button[data-filter="${CSS.escape(filter)}"][data-value="${CSS.escape(value)}"]`)?.focus({ preventScroll: true });
for (const plot of document.querySelectorAll(".plot")) watcher.observe(plot);
addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach(insert));
addEventListener("pointermove", hover);
addEventListener("click", (event) => {
  const button = event.target.closest("nav button");
  if (button) {
    choose(button.dataset);
    remember();
    show();
  }
  if (event.target.closest("th")) sortBy(event.target.closest("th"));
  const run = hover(event);
  if (run && event.pointerType !== "touch") open(run.link);
});
