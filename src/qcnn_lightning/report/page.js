// Draws the report from `report`, which report.py wrote: the runs, their epochs, and tables. Filters choose runs; all
// charts and tables are drawn again from those. Many runs share one Plotly trace, parted by gaps: a trace per run takes
// seconds to draw, and a point knows its run through `customdata`.

const LAYOUT = {
  margin: { l: 58, r: 12, t: 24, b: 44 },
  font: { family: "system-ui, sans-serif", size: 12, color: "#1d2733" },
  paper_bgcolor: "rgba(0,0,0,0)",
  modebar: { bgcolor: "rgba(0,0,0,0)", color: "#98a2b3", activecolor: "#0072b2" },
  plot_bgcolor: "rgba(0,0,0,0)",
  hovermode: "closest",
  hoverlabel: { align: "left", font: { size: 12 } },
  legend: { orientation: "h", y: -0.17, yanchor: "top", x: 0 },
  height: 330,
};
const AXIS = { gridcolor: "#e6eaef", zeroline: false, linecolor: "#9aa5b1", ticks: "outside", tickcolor: "#9aa5b1" };
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const WHOLE = "all";

const state = { chosen: {}, colour: report.colour, curves: "each run" };

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const byId = (id) => document.getElementById(id);
const unique = (items) => [...new Set(items)];
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => {
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
};
const percent = (value) => (isNumber(value) ? `${(100 * value).toFixed(2)}%` : "–");
const fixed = (digits) => (value) => (isNumber(value) ? value.toFixed(digits).replace("-", "−") : "–");
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const wrapped = (text) => escaped(text).replace(/(.{60,}?) /g, "$1<br>    ");

const shownRuns = () =>
  report.runs.filter((run) => report.filters.every(({ key }) => !state.chosen[key] || state.chosen[key].has(run.filters[key])));

function groupsOf(runs, keyOf) {
  const groups = new Map();
  for (const run of runs) {
    const key = keyOf(run);
    groups.set(key, [...(groups.get(key) ?? []), run]);
  }
  return groups;
}

// A value keeps its colour whatever is filtered.
function colourOf(run) {
  const { values, colours } = report.filters.find(({ key }) => key === state.colour);
  return colours[values.indexOf(run.filters[state.colour])];
}

const colourGroups = (runs) => groupsOf(runs, (run) => run.filters[state.colour]);

function hoverText(run) {
  return `<b>${escaped(run.label)}</b><br>${wrapped(run.name)}<br><br>${wrapped(run.command)}`;
}

function draw(id, traces, layout = {}, reason = "No run that is shown has these numbers.") {
  const chart = byId(id);
  if (!traces.length) {
    if (chart.data) Plotly.purge(chart);
    chart.classList.add("empty");
    chart.textContent = reason;
    return;
  }
  if (chart.classList.contains("empty")) {
    chart.classList.remove("empty");
    chart.textContent = "";
  }
  Plotly.react(chart, traces, { ...LAYOUT, ...layout }, CONFIG);
  chart.removeAllListeners?.("plotly_click");
  chart.on("plotly_click", ({ points }) => {
    const run = report.runs[points[0].customdata];
    if (run?.link) window.open(run.link);
  });
}

// One trace for several runs: their points one after the other, a gap between runs.
function joined(runs, xOf, yOf, appearance) {
  const trace = { type: "scatter", x: [], y: [], customdata: [], text: [], connectgaps: false, ...appearance };
  for (const run of runs) {
    const x = xOf(run);
    const y = yOf(run);
    if (!x || !y) continue;
    for (let i = 0; i < x.length; i++) {
      trace.x.push(x[i]);
      trace.y.push(y[i]);
      trace.customdata.push(run.index);
    }
    trace.x.push(null);
    trace.y.push(null);
    trace.customdata.push(null);
  }
  trace.text = trace.customdata.map((index) => (index === null ? "" : report.runs[index].hover));
  trace.hovertemplate = `${appearance.format ?? "%{x}, %{y}"}<br>%{text}<extra></extra>`;
  delete trace.format;
  return trace;
}

// Mean over the runs of each experiment, and a band of one standard deviation.
function banded(runs, column, appearance) {
  const traces = [];
  for (const members of groupsOf(runs, (run) => run.experiment).values()) {
    const values = new Map();
    for (const run of members) {
      run.epoch.forEach((epoch, i) => {
        const value = run.columns[column]?.[i];
        if (isNumber(value)) values.set(epoch, [...(values.get(epoch) ?? []), value]);
      });
    }
    const epochs = [...values.keys()].sort((a, b) => a - b);
    if (!epochs.length) continue;
    const centre = epochs.map((epoch) => mean(values.get(epoch)));
    const spread = epochs.map((epoch) => (values.get(epoch).length > 1 ? deviation(values.get(epoch)) : 0));
    const colour = colourOf(members[0]);
    if (members.length > 1) {
      traces.push({
        type: "scatter",
        mode: "lines",
        x: [...epochs, ...[...epochs].reverse()],
        y: [...centre.map((value, i) => value + spread[i]), ...centre.map((value, i) => value - spread[i]).reverse()],
        fill: "toself",
        fillcolor: `${colour}2b`,
        line: { width: 0 },
        hoverinfo: "skip",
        showlegend: false,
      });
    }
    const seeds = members.map((run) => run.filters.seed).join(", ");
    traces.push({
      type: "scatter",
      mode: "lines",
      x: epochs,
      y: centre,
      line: { width: 1.8, color: colour, dash: appearance.dash },
      showlegend: false,
      hovertemplate: `epoch %{x}: ${appearance.value}<br><b>${escaped(members[0].label)}</b>, mean of seeds ${escaped(seeds)}<extra></extra>`,
    });
  }
  return traces;
}

function curves(runs, column, { dash = "solid", value = "%{y:.4f}" } = {}) {
  const having = runs.filter((run) => run.columns[column]);
  if (state.curves !== "each run") return banded(having, column, { dash, value });
  return [...colourGroups(having).values()].map((group) =>
    joined(group, (run) => run.epoch, (run) => run.columns[column], {
      mode: group.some((run) => run.epoch.length < 3) ? "lines+markers" : "lines",
      line: { width: 1.3, color: colourOf(group[0]), dash },
      opacity: group.length > 10 ? 0.6 : 0.9,
      showlegend: false,
      format: `epoch %{x}: ${value}`,
    }),
  );
}

// An entry per colour, without data of its own.
const legend = (runs) =>
  [...colourGroups(runs)].map(([value, group]) => ({
    type: "scatter",
    mode: "lines",
    x: [null],
    y: [null],
    line: { width: 3, color: colourOf(group[0]) },
    name: escaped(state.colour === "data.name" ? value : `${report.filters.find(({ key }) => key === state.colour).label} = ${value}`),
    showlegend: true,
    hoverinfo: "skip",
  }));

const withLegend = (runs, traces) => (traces.length ? [...traces, ...legend(runs)] : []);
const axis = (title, more = {}) => ({ ...AXIS, title: { text: title, standoff: 6 }, automargin: true, ...more });

const hasAbove = (limit, runs, columns) =>
  runs.some((run) => columns.some((column) => run.columns[column]?.some((value) => value > limit)));

function drawTraining(runs, quantity) {
  const value = quantity === "accuracy" ? "%{y:.2%}" : "%{y:.4f}";
  const names = [`${quantity}/train`, `${quantity}/test`];
  const traces = [...curves(runs, names[0], { dash: "dot", value }), ...curves(runs, names[1], { value })];
  // Answering 0 for every class costs 1; before learning, some costs are astronomical.
  const cut = quantity === "cost" && hasAbove(1, runs, names);
  const title = cut ? "cost (double-click: also above 1)" : quantity;
  const scale = { ...(quantity === "accuracy" && { tickformat: ".0%" }), ...(cut && { range: [0, 1] }) };
  draw(quantity, withLegend(runs, traces), { xaxis: axis("epoch"), yaxis: axis(title, scale) });
}

function drawTrend(runs, id, bipartition) {
  const chosen = runs.filter((run) => run.bipartition === bipartition);
  const layout = { xaxis: axis("epoch"), yaxis: axis(`mean EE, ${bipartition} (nats)`, { rangemode: "tozero" }) };
  draw(id, withLegend(chosen, curves(chosen, "trend")), layout, `No ${bipartition} run is shown.`);
}

function drawAgainstCost(runs, cost) {
  const having = runs.filter((run) => run.against[cost].length);
  const at = (column) => (run) => run.against[cost].map((i) => run.columns[column][i]);
  const traces = [...colourGroups(having).values()].map((group) =>
    joined(group, at(`cost/${cost}`), at("trend"), {
      mode: "lines+markers",
      line: { width: 0.5, color: colourOf(group[0]) },
      // All points answer the pointer; as many are drawn as a browser draws at once.
      marker: { size: 4, color: colourOf(group[0]), maxdisplayed: 600 },
      opacity: 0.75,
      showlegend: false,
      format: `${cost} cost %{x:.4f}, EE %{y:.4f} nats`,
    }),
  );
  const layout = { xaxis: axis(`${cost} cost`), yaxis: axis("mean EE (nats)") };
  const reason = `No run that is shown has entropies and costs ${report.since}.`;
  draw(`against-${cost}`, withLegend(having, traces), layout, reason);
}

// Side by side, a panel for each data set.
function panels(groups, layoutOf) {
  const layout = { annotations: [], showlegend: false };
  const width = 1 / groups.length;
  groups.forEach(([title], i) => {
    const number = i ? i + 1 : "";
    const domain = [i * width + (i ? 0.055 : 0), (i + 1) * width];
    Object.assign(layout, layoutOf(number, domain));
    layout.annotations.push({
      text: `<b>${escaped(title)}</b>`, x: domain[0], y: 1.01, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false,
    });
  });
  return layout;
}

function meanTable(runs, columns) {
  const epochs = unique(runs.flatMap((run) => run.epoch)).sort((a, b) => a - b);
  const place = runs.map((run) => new Map(run.epoch.map((epoch, i) => [epoch, i])));
  const table = columns.map((column) =>
    epochs.map((epoch) => {
      const values = runs.map((run, k) => run.columns[column]?.[place[k].get(epoch)]).filter(isNumber);
      return values.length ? mean(values) : null;
    }),
  );
  return { epochs, table };
}

function drawClasses(runs) {
  const groups = [...groupsOf(runs.filter((run) => run.classes.length), (run) => run.data)];
  const tables = groups.map(([, members]) => {
    const { classes } = members.reduce((most, run) => (run.classes.length > most.classes.length ? run : most));
    return { classes, members, ...meanTable(members, classes.map((_, label) => `ee/class_${label}`)) };
  });
  const largest = Math.max(...tables.flatMap(({ table }) => table.flat().filter(isNumber)));
  const traces = tables.map(({ classes, members, epochs, table }, i) => ({
    type: "heatmap",
    x: epochs,
    y: classes,
    z: table,
    xaxis: `x${i ? i + 1 : ""}`,
    yaxis: `y${i ? i + 1 : ""}`,
    zmin: 0,
    zmax: largest,
    colorscale: "Viridis",
    showscale: i === tables.length - 1,
    colorbar: { title: { text: "EE (nats)", side: "right" }, thickness: 12, outlinewidth: 0 },
    hovertemplate: `epoch %{x}, class %{y}: %{z:.4f} nats<br>mean of ${members.length} runs<extra></extra>`,
  }));
  const layout = panels(groups, (number, domain) => ({
    [`xaxis${number}`]: axis("epoch", { domain, anchor: `y${number}`, showgrid: false }),
    [`yaxis${number}`]: axis("", { anchor: `x${number}`, autorange: "reversed", type: "category", showgrid: false }),
  }));
  draw("classes", traces, { ...layout, height: 360 }, "No run that is shown has the columns ee/class_0, ee/class_1, ...");
}

function drawProfile(runs) {
  const groups = [...groupsOf(runs.filter((run) => run.levels), (run) => run.data)];
  const traces = groups.flatMap(([, members], i) => {
    const levels = Math.max(...members.map((run) => run.levels));
    const { epochs, table } = meanTable(members, [...Array(levels).keys()].map((level) => `profile/level_${level}`));
    const known = epochs.flatMap((_, k) => (table.some((row) => isNumber(row[k])) ? [k] : []));
    const number = Math.min(5, known.length);
    const chosen = unique([...Array(number).keys()].map((k) => known[Math.round((k * (known.length - 1)) / Math.max(1, number - 1))]));
    return chosen.map((k, place) => ({
      type: "scatter",
      mode: "lines+markers",
      x: table.map((_, level) => 2 ** level),
      y: table.map((row) => row[k]),
      xaxis: `x${i ? i + 1 : ""}`,
      yaxis: `y${i ? i + 1 : ""}`,
      name: epochs[k] < 0 ? "before training" : `epoch ${epochs[k]}`,
      line: { color: ["#440154", "#3b528b", "#21918c", "#5ec962", "#c8b800"][place], width: 1.8 },
      showlegend: true,
      legendgroup: `${i}`,
      legendgrouptitle: groups.length > 1 ? { text: escaped(groups[i][0]) } : undefined,
      hovertemplate: `%{x} pixels: %{y:.4f} nats<br>mean of ${members.length} runs<extra>%{fullData.name}</extra>`,
    }));
  });
  const layout = panels(groups, (number, domain) => ({
    [`xaxis${number}`]: axis("pixels in the block", { domain, anchor: `y${number}`, type: "log", dtick: Math.log10(4) }),
    [`yaxis${number}`]: axis(number ? "" : "EE (nats)", { anchor: `x${number}`, rangemode: "tozero" }),
  }));
  draw("profile", traces, { ...layout, showlegend: true, legend: { x: 1.01, y: 1 } }, "No run that is shown has the columns profile/level_0, profile/level_1, ...");
}

function drawSize(runs, id, x, y, layout, value) {
  const having = runs.filter((run) => isNumber(run[x]) && isNumber(run[y]));
  const points = [...colourGroups(having).values()].map((group) => ({
    ...joined(group, (run) => [run[x]], (run) => [run[y]], { mode: "markers", format: value }),
    marker: { size: 6, color: colourOf(group[0]), opacity: 0.55 },
    showlegend: false,
  }));
  const repeated = [...groupsOf(having, (run) => run.experiment).values()].filter((group) => group.length > 1);
  const bars = repeated.map((group) => {
    const values = group.map((run) => run[y]);
    const color = colourOf(group[0]);
    return {
      type: "scatter",
      mode: "markers",
      x: [group[0][x]],
      y: [mean(values)],
      error_y: { type: "data", array: [deviation(values)], color, thickness: 1.3, width: 5 },
      marker: { symbol: "line-ew-open", size: 13, color },
      showlegend: false,
      hoverinfo: "skip",
    };
  });
  draw(id, withLegend(having, [...points, ...bars]), layout);
}

function drawEntropyAgainstD(runs) {
  const line = { width: 1, dash: "dot", color: "#5d6b7a" };
  drawSize(runs, "entropy-against-d", "d", "entropy", {
    xaxis: axis("channel multiplier d"),
    yaxis: axis("mean EE at the last epoch (nats)", { rangemode: "tozero" }),
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: Math.LN2, y1: Math.LN2, line }],
    annotations: [{ text: "log 2", xref: "paper", x: 0, y: Math.LN2, xanchor: "left", yanchor: "bottom", showarrow: false }],
  }, "d = %{x}, EE %{y:.4f} nats");
}

function drawAccuracyAgainstParameters(runs) {
  drawSize(runs, "accuracy-against-parameters", "parameters", "accuracy", {
    xaxis: axis("trained parameters", { type: "log", dtick: "D2" }),
    yaxis: axis("test accuracy, last epoch", { tickformat: ".1%" }),
  }, "%{x:,} parameters, %{y:.2%}");
}

function drawTiles(runs) {
  const tiles = [["runs shown", `${runs.length} of ${report.runs.length}`]];
  for (const [data, members] of groupsOf(runs, (run) => run.data)) {
    const best = members.filter((run) => isNumber(run.best)).sort((a, b) => b.best - a.best)[0];
    if (best) tiles.push([`best test accuracy, ${data}`, percent(best.best)]);
    const known = members.filter((run) => isNumber(run.correlation));
    if (known.length) tiles.push([`Spearman, EE and train cost, ${data}: mean of runs`, fixed(2)(mean(known.map((run) => run.correlation)))]);
  }
  byId("tiles").replaceChildren(
    ...tiles.map(([name, value]) => element("div", { className: "tile" }, element("b", { textContent: value }), element("span", { textContent: name }))),
  );
}

const FORMATS = { percent, fixed2: fixed(2), fixed4: fixed(4), integer: (value) => (isNumber(value) ? value.toLocaleString("en") : "–"), seconds: fixed(0), text: (value) => value ?? "–" };

// A table whose head sorts it. A cell is a value, or {text, value, link, title} where what is read differs from what sorts.
function drawTable(id, columns, rows) {
  const holder = byId(id);
  const order = holder.order ?? {};
  const asCell = (cell) => (cell !== null && typeof cell === "object" ? cell : { value: cell });
  const valueOf = (cell) => asCell(cell).value;
  const compare = (a, b) => {
    const [left, right] = [valueOf(a[order.key]), valueOf(b[order.key])];
    if ((left ?? null) === null || (right ?? null) === null) return ((left ?? null) === null) - ((right ?? null) === null);
    return order.direction * (isNumber(left) && isNumber(right) ? left - right : String(left).localeCompare(String(right), "en", { numeric: true }));
  };
  const sorted = order.key ? [...rows].sort(compare) : rows;
  const head = columns.map(({ key, label, format }) => {
    const cell = element("th", { textContent: label, className: format === "text" ? "text" : "", tabIndex: 0 });
    if (order.key === key) cell.setAttribute("aria-sort", order.direction > 0 ? "ascending" : "descending");
    cell.onclick = () => {
      holder.order = { key, direction: order.key === key ? -order.direction : 1 };
      drawTable(id, columns, rows);
    };
    cell.onkeydown = (event) => event.key === "Enter" && cell.onclick();
    return cell;
  });
  const body = sorted.map((row) =>
    element("tr", {}, ...columns.map(({ key, format, long }) => {
      const { value, text = FORMATS[format](value), title = "", link } = asCell(row[key]);
      const td = element("td", { className: `${format === "text" ? "text" : ""} ${long ? "long" : ""}`, title });
      if (key === "status") td.classList.add(text);
      td.append(link ? element("a", { href: link, textContent: text }) : long === "code" ? element("code", { textContent: text }) : text);
      return td;
    })),
  );
  holder.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)));
}

function drawTables(runs) {
  const experiments = new Set(runs.map((run) => run.experiment));
  drawTable("accuracies", report.accuracies.columns, report.accuracies.rows.filter((row) => experiments.has(row.experiment)));
  const data = new Set(runs.map((run) => run.data));
  drawTable("correlations", report.correlations.columns, report.correlations.rows.filter((row) => data.has(row.data)));
  const shown = new Set(runs.map((run) => run.index));
  drawTable("runs", report.table.columns, report.table.rows.filter((row) => shown.has(row.index)));
}

const PARTS = [
  drawTiles,
  (runs) => drawTraining(runs, "accuracy"),
  (runs) => drawTraining(runs, "cost"),
  (runs) => drawTrend(runs, "trend-left-right", "left/right"),
  (runs) => drawTrend(runs, "trend-up-down", "up/down"),
  (runs) => drawAgainstCost(runs, "train"),
  (runs) => drawAgainstCost(runs, "test"),
  drawClasses,
  drawProfile,
  drawEntropyAgainstD,
  drawAccuracyAgainstParameters,
  drawTables,
];

// Part by part from the top, so that the page can be read, and its filters used, before all of it is drawn.
function drawAll() {
  const runs = shownRuns();
  const waiting = [...PARTS];
  clearTimeout(state.timer);
  delete document.documentElement.dataset.drawn;
  const next = () => {
    waiting.shift()(runs);
    if (waiting.length) state.timer = setTimeout(next);
    else document.documentElement.dataset.drawn = "yes";
  };
  next();
}

function toggle(key, value, values) {
  if (value === WHOLE) {
    delete state.chosen[key];
  } else {
    const chosen = state.chosen[key] ?? new Set();
    chosen.has(value) ? chosen.delete(value) : chosen.add(value);
    if (chosen.size && chosen.size < values.length) state.chosen[key] = chosen;
    else delete state.chosen[key];
  }
}

// The filters are kept in the address, so that a reload, or a link sent to somebody, shows the same.
function remember() {
  const chosen = Object.fromEntries(Object.entries(state.chosen).map(([key, values]) => [key, [...values]]));
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify({ chosen, colour: state.colour, curves: state.curves }))}`);
}

function recall() {
  try {
    const { chosen, colour, curves } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    for (const { key, values } of report.filters) {
      const known = (chosen[key] ?? []).filter((value) => values.includes(value));
      if (known.length) state.chosen[key] = new Set(known);
    }
    if (report.filters.some(({ key }) => key === colour)) state.colour = colour;
    state.curves = curves;
  } catch {
    // No filters in the address.
  }
}

function drawFilters() {
  const button = (text, pressed, onclick, name) => {
    const made = element("button", { type: "button", textContent: text });
    made.setAttribute("aria-pressed", pressed);
    made.dataset.filter = name;
    made.dataset.value = text;
    made.onclick = () => {
      onclick();
      remember();
      drawFilters();
      drawAll();
    };
    return made;
  };
  const group = (label, buttons) => element("fieldset", {}, element("legend", { textContent: label }), ...buttons);
  const filters = report.filters
    .filter(({ values }) => values.length > 1)
    .map(({ key, label, values }) =>
      group(label, [WHOLE, ...values].map((value) =>
        button(value, value === WHOLE ? !state.chosen[key] : Boolean(state.chosen[key]?.has(value)), () => toggle(key, value, values), key))));
  const colours = report.filters.filter(({ values }) => values.length > 1);
  if (colours.length > 1)
    filters.push(group("colour", colours.map(({ key, label }) => button(label, state.colour === key, () => (state.colour = key), "colour"))));
  if (report.runs.length > new Set(report.runs.map((run) => run.experiment)).size)
    filters.push(group("curves", ["each run", "mean ± sd"].map((name) => button(name, state.curves === name, () => (state.curves = name), "curves"))));
  byId("filters").replaceChildren(element("div", {}, ...filters));
}

function begin() {
  report.runs.forEach((run, index) => {
    run.index = index;
    run.hover = hoverText(run);
  });
  byId("title").textContent = report.title;
  byId("subtitle").textContent = report.subtitle;
  for (const [id, text] of Object.entries(report.notes)) byId(id).textContent = text;
  byId("left-out").hidden = !report.left_out.length;
  byId("left-out").querySelector("ul").append(
    ...report.left_out.map(({ what, why }) => element("li", {}, element("b", { textContent: what }), `: ${why}`)),
  );
  byId("files").hidden = !report.files.length;
  byId("files").querySelector("ul").append(
    ...report.files.map(({ name, links }) =>
      element("li", {}, name, ...links.map(({ text, link }) => element("a", { href: link, textContent: text })))),
  );
  recall();
  drawFilters();
  drawAll();
}

begin();
