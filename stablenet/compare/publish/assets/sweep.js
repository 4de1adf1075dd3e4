// The page of a sweep.
const COL = Object.fromEntries(DATA.columns.map((name, i) => [name, i]));
const ROWS = DATA.rows.map((row) => Object.fromEntries(DATA.columns.map((name, i) => [name, row[i]])));
const state = { view: 0, metric: "work_s", instances: null, hidden: new Set(), pair: [0, 1] };
const FINISHED = ["solved", "borderline", "optimal"], AXES = ["formulation", "bounds", "search", "solver", "step", "solver_options"];
const distinct = (key) => [...new Set(ROWS.map((row) => row[key]))];
const VARYING = AXES.filter((axis) => distinct(axis).length > 1);
const methodOf = (row) => (VARYING.length ? VARYING : AXES).map((axis) => row[axis]).filter((x) => x !== "-").join(" ");

// Statistics of chosen members and instances, from a view's cells.
function cellsOf(view) {
  return view.cells.map((_, c) => c).filter((c) => !state.instances || view.instances[view.unit[c]] === state.instances);
}
function steps(values, total) {
  const points = new Map();
  [...values].sort((a, b) => a - b).forEach((value, i) => points.set(value, (i + 1) / total));
  return [...points];
}
function profileOf(view, metric, members, cells) {
  const times = view.times[metric];
  const best = cells.map((c) => Math.min(...members.map((m) => times[m][c] ?? Infinity)));
  return members.map((m) => steps(cells.map((c, i) => (times[m][c] === null ? null : times[m][c] / best[i])).filter((r) => r !== null), cells.length));
}
function cactusOf(view, metric, members, cells) {
  return members.map((m) => steps(cells.map((c) => view.times[metric][m][c]).filter((t) => t !== null), cells.length));
}
function anytimeOf(view, members) {
  const chosen = view.instances.map((_, i) => i).filter((i) => !state.instances || view.instances[i] === state.instances);
  return members.map((m) => view.grid.map((t, p) => [t, chosen.reduce((sum, i) => sum + view.curves[m][i][p], 0) / Math.max(1, chosen.length)]));
}
window.stablenet = { profileOf, cactusOf, anytimeOf, cellsOf, DATA, ROWS };

function header() {
  const outcomes = {};
  for (const row of ROWS) outcomes[row.outcome] = (outcomes[row.outcome] || 0) + 1;
  const [low, high] = [Math.min(...DATA.loads), Math.max(...DATA.loads)];
  const machines = DATA.machines.map((m) => `${m.cpu || "unknown processor"}, ${m.cores} cores, ${m.memory_mb} MB, ${m.system}, Python ${m.python}`);
  return [
    el("header", {}, el("h1", {}, DATA.name), themeButton()),
    el("p", { class: "muted" }, `${machines.join("; ")}${DATA.loads.length ? `; load ${num(low)} to ${num(high)} when runs began` : ""}; updated ${(DATA.updated || "").replace("T", " ").slice(0, 16)} UTC`),
    el("div", { class: "tiles" }, tile(`${ROWS.length} of ${DATA.planned}`, "runs"), tile(DATA.instances.length, DATA.instances.length === 1 ? "instance" : "instances"),
      Object.entries(outcomes).sort((a, b) => b[1] - a[1]).map(([name, count]) => tile(count, name))),
  ];
}

function contradictions() {
  if (!DATA.contradictions.length) return null;
  return el("section", { class: "bad", id: "contradictions" }, el("h2", {}, `Contradictions: ${count(DATA.contradictions.length, "run")} gave wrong answers`),
    el("p", {}, "A witness is an input whose forward pass was certified and replayed; the refutation is wrong. Wrong runs count as not solved below."),
    el("ul", {}, DATA.contradictions.map((item) => el("li", {}, item.text,
      item.point ? el("details", {}, el("summary", {}, "the witness"), el("pre", {}, JSON.stringify(item.point))) : null))));
}

const figures = el("div", { class: "grid", id: "figures" }), legend = el("div", { class: "legend" }), statistics = el("div");

function drawFigures() {
  const view = DATA.views[state.view], metric = state.metric, cells = cellsOf(view);
  const members = view.members.map((_, m) => m).filter((m) => !state.hidden.has(m));
  const top = Math.max(...view.limit, 1);
  const lines = (curves, step) => members.map((m, k) => ({ name: view.members[m], index: state.rank[m], points: curves[k], step }));
  const profile = profileOf(view, metric, members, cells);
  const worst = Math.max(10, ...profile.flat().map(([ratio]) => ratio));
  const chosen = members.flatMap((m) => cells.map((c) => view.times[metric][m][c]).filter((t) => t !== null));
  const low = Math.min(top / 10, decade(Math.max(1e-3, Math.min(...chosen, top))));
  const curves = anytimeOf(view, members);
  const begun = curves.flatMap((points) => points.find(([, share]) => share > 0)?.[0] ?? []);
  legend.replaceChildren(...view.members.map((name, m) => el("button", { "aria-pressed": String(!state.hidden.has(m)), onclick: () => {
    if (!state.hidden.delete(m)) state.hidden.add(m);
    drawFigures();
  } }, sv("svg", { viewBox: "0 0 22 8" }, sv("path", { d: "M0 4H22", class: "line", style: `stroke:${colour(state.rank[m])};stroke-dasharray:${dash(state.rank[m]) || "none"}` })), name)));
  figures.replaceChildren(
    plot("profile", { title: "Performance profile", xLabel: "time / best time", yLabel: "share of cells", xLog: true, xRange: [1, worst], yRange: [0, 1], series: lines(profile, true),
      note: `${count(cells.length, "cell")}: ${view.axis === "method" ? "instances" : "instances and values of the other axes"}; the median over seeds` }),
    plot("cactus", { title: "Problems solved over time", xLabel: `seconds, ${DATA.metrics[metric]}`, yLabel: "share solved", xLog: true, xRange: [low, top], yRange: [0, 1], series: lines(cactusOf(view, metric, members, cells), true) }),
    plot("anytime", { title: "Questions closed over time", xLabel: "seconds since the network was loaded", yLabel: "share of pending questions closed", xLog: true, xRange: [Math.min(top / 10, decade(Math.min(...begun, top))), top], yRange: [0, 1], series: lines(curves, true) }),
    scatterCard(view, metric, cells, top));
}

// One colour for each instance, as long as there are colours.
function scatterCard(view, metric, cells, top) {
  if (view.members.length < 2) return el("div", { class: "card" }, el("p", { class: "muted" }, "A scatter plot needs two members."));
  const [a, b] = state.pair;
  const at = (m, c) => view.times[metric][m][c] ?? view.limit[c];
  const say = (m, c) => (view.times[metric][m][c] === null ? "not solved" : `${num(view.times[metric][m][c])} s`);
  const low = Math.min(top / 10, decade(Math.max(1e-3, Math.min(...cells.flatMap((c) => [at(a, c), at(b, c)]), top))));
  const units = [...new Set(cells.map((c) => view.unit[c]))], told = units.length <= COLOURS && view.instances.length <= COLOURS;
  const group = (name, index, those) => ({ name, index, markers: true, points: those.map((c) => [at(a, c), at(b, c)]),
    tips: those.map((c) => `${view.cells[c]}: ${say(a, c)} against ${say(b, c)}`) });
  const card = plot("scatter", { title: "One against another", xLabel: `${view.members[a]}: seconds`, yLabel: `${view.members[b]}: seconds`, xLog: true, yLog: true, xRange: [low, top], yRange: [low, top], diagonal: true, key: told && units.length > 1,
    series: told ? units.map((u) => group(view.instances[u], u, cells.filter((c) => view.unit[c] === u))) : [group("cells", 0, cells)],
    note: "below the line the second is faster; not solved lies on the limit" });
  const options = view.members.map((name, m) => [m, name]);
  const choose = (i) => (value) => { state.pair[i] = Number(value); drawFigures(); };
  card.querySelector(".head").after(el("div", { class: "bar" }, select("x", options, choose(0), a), select("y", options, choose(1), b)));
  return card;
}

// Share of runs solved for each value of two axes (or of all others together), shaded, with the median of their times.
function glance() {
  if (VARYING.length < 2) return null;
  const place = el("div", { class: "scroll" }), below = el("div"), chosen = { down: VARYING[0], across: VARYING.slice(1).join("+") };
  const axesOf = (name) => name.split("+");
  const of = (row, name) => axesOf(name).map((axis) => row[axis]).join(" ");
  function cell(rows) {
    if (!rows.length) return ["", el("td", {}, "")];
    const solved = rows.filter((row) => FINISHED.includes(row.outcome)), share = solved.length / rows.length;
    const times = rows.map((row) => (FINISHED.includes(row.outcome) ? row.work_s : Infinity)).sort((p, q) => p - q);
    const middle = times[Math.floor(times.length / 2)];
    const words = [`${solved.length}/${rows.length}`, Number.isFinite(middle) ? `${num(middle)} s` : "> limit"];
    return [words.join(", "), el("td", { style: `background:color-mix(in srgb, var(--active) ${Math.round(15 + 60 * share)}%, var(--card))`, "data-tip": rows.filter((row) => !FINISHED.includes(row.outcome)).length ? `not solved: ${Object.entries(rows.reduce((sum, row) => FINISHED.includes(row.outcome) ? sum : { ...sum, [row.outcome]: (sum[row.outcome] || 0) + 1 }, {})).map(([name, n]) => `${n} ${name}`).join(", ")}` : "all solved" },
      el("b", {}, words[0]), el("small", {}, words[1]))];
  }
  function draw() {
    const names = (axis) => [...new Set(ROWS.map((row) => of(row, axis)))].sort((p, q) => p.localeCompare(q, "en", { numeric: true }));
    const heads = [chosen.down, ...names(chosen.across)];
    const lines = names(chosen.down).map((name) => [[name, el("td", { class: "text" }, name)],
      ...heads.slice(1).map((other) => cell(ROWS.filter((row) => of(row, chosen.down) === name && of(row, chosen.across) === other)))]);
    place.replaceChildren(el("table", { class: "matrix" }, el("thead", {}, el("tr", {}, heads.map((name, i) => el("th", { class: i ? null : "text" }, name)))),
      el("tbody", {}, lines.map((line) => el("tr", {}, line.map(([, node]) => node))))));
    const texts = () => [heads, ...lines.map((line) => line.map(([text]) => text))];
    below.replaceChildren(saveButtons("glance", texts, () => asLatex(texts(), `l${"r".repeat(heads.length - 1)}`)));
  }
  const axes = ["instance", ...VARYING].map((axis) => [axis, axis]);
  const joint = VARYING.length > 2 ? [[VARYING.slice(1).join("+"), VARYING.slice(1).join(" and ")]] : [];
  draw();
  return el("section", { id: "glance" }, el("h2", {}, "At a glance"),
    el("p", { class: "muted" }, "Runs solved within the limit, and the median of their times; the stronger the colour, the more."),
    el("div", { class: "bar" }, select("rows", axes, (value) => { chosen.down = value; draw(); }, chosen.down),
      select("columns", [...joint, ...axes], (value) => { chosen.across = value; draw(); }, chosen.across)), place, below);
}

function drawStatistics() {
  const view = DATA.views[state.view], metric = state.metric;
  const columns = (heads, words) => Object.entries(heads).map(([key, head]) => ({ key, head: head || view.axis, text: words.includes(key), wrap: key === "outcomes" }))
    .filter((c) => [...view.summary[metric], ...view.pairs[metric]].some((row) => plain(row[c.key]) !== null && plain(row[c.key]) !== undefined && plain(row[c.key]) !== ""));
  statistics.replaceChildren(
    el("p", { class: "muted" }, `Seconds, ${DATA.metrics[metric]}. SGM: geometric mean with shift, runs not solved at their limit; PAR: such runs at 2 or 10 times their limit; `
      + `"best on": share of cells on which it was fastest; "bounds s": tightening, part of the time. ${view.dropped ? `${count(view.dropped, "cell")} left out, since not all ran there.` : ""}`),
    table("summary", columns(DATA.heads.summary, ["member", "outcomes"]), view.summary[metric], { latex: view.latex[metric].summary }),
    view.pairs[metric].length ? el("div", {}, el("h3", {}, "Pairs, with the instance as the unit"),
      el("p", { class: "muted" }, `${view.members.length > 12 ? "Each against the one of the least mean. " : ""}Geometric mean of the ratio of times, Student's 95 % interval over instances (none of fewer than five), Wilcoxon's signed-rank test with Holm's correction; >= and <= where runs at the limit make the ratio a bound, ~ where both have some.`),
      table("pairs", columns(DATA.heads.pairs, ["a", "b"]), view.pairs[metric], { latex: view.latex[metric].pairs })) : null);
}

function setView(index) {
  state.view = Number(index);
  const view = DATA.views[state.view];
  const order = view.summary[state.metric].filter((row) => row.member !== "virtual best").map((row, m) => [row.sgm1, m]).sort((p, q) => p[0] - q[0]);
  state.hidden = new Set(order.slice(COLOURS).map(([, m]) => m));
  // With more members than colours the best ones, which are shown at first, get a colour of their own each.
  state.rank = view.members.map((_, m) => (view.members.length > COLOURS ? order.findIndex(([, other]) => other === m) : m));
  state.pair = order.length > 1 ? [order[0][1], order[1][1]] : [0, 0];
  drawFigures();
  drawStatistics();
}

function comparison() {
  if (!DATA.views.length) return el("p", {}, "There are no rows yet.");
  const names = [...new Set(ROWS.map((row) => row.instance))];
  const bar = el("div", { class: "bar" },
    select("compare", DATA.views.map((view, i) => [i, view.axis === "method" ? "whole methods" : `${view.axis} (${view.members.length})`]), setView, 0),
    select("time", Object.entries(DATA.metrics), (value) => { state.metric = value; drawFigures(); drawStatistics(); }, state.metric),
    select("figures show", [["", "all instances"], ...names.map((name) => [name, name])], (value) => { state.instances = value || null; drawFigures(); }, ""));
  bar.id = "choices";
  return el("section", {}, el("h2", {}, "Comparison"), bar, legend, figures, statistics);
}

function maps() {
  const names = Object.keys(DATA.maps);
  if (!names.length) return null;
  const place = el("div"), runBox = el("span");
  const chosen = { instance: names[0], run: 0, mode: "verdict" };
  const rowOf = Object.fromEntries(ROWS.map((row) => [row.key, row]));
  const label = (run) => { const r = rowOf[run.key]; return `${methodOf(r)} seed ${r.seed}: ${r.outcome}`; };
  function draw() {
    const map = DATA.maps[chosen.instance], run = map.runs[chosen.run];
    drawMap(place, map.layers, run, map.sources, chosen.mode);
  }
  function pickInstance(name) {
    chosen.instance = name;
    chosen.run = 0;
    runBox.replaceChildren(select("run", DATA.maps[name].runs.map((run, i) => [i, label(run)]), (value) => { chosen.run = Number(value); draw(); }, 0));
    draw();
  }
  pickInstance(names[0]);
  return el("section", { id: "maps" }, el("h2", {}, "Neurons"), el("div", { class: "card" }, el("div", { class: "bar" },
    select("instance", names.map((name) => [name, name]), pickInstance, names[0]), runBox,
    select("colour", [["verdict", "by verdict"], ["positive", "what closed: can be positive"], ["negative", "what closed: can be negative"]], (value) => { chosen.mode = value; draw(); }, "verdict")), place));
}

function runsTable() {
  const words = ["instance", "formulation", "bounds", "search", "solver", "step", "solver_options", "changed_options", "outcome", "reason", "command", "status", "stopped_by", "key", "ended", "report_sha256"];
  const settings = ["search", "step", "formulation", "bounds", "solver", "solver_options", "permute", "time_limit", "memory_limit", "threads"];
  const alike = ROWS.length > 1 ? settings.filter((name) => distinct(name).length === 1 && ROWS[0][name] !== null) : [];
  const aside = ["status", "stopped_by", "key", "report_sha256", "ended", "exit_code", ...alike];
  const shown = DATA.columns.filter((name) => ROWS.some((row) => row[name] !== null && row[name] !== "") && !aside.includes(name));
  const columns = shown.map((key) => ({ key, head: key.replaceAll("_", " "), text: words.includes(key), wrap: key === "reason",
    tip: key === "work_s" ? DATA.metrics.work_s : null,
    cell: key === "outcome" ? (row) => el("span", { "data-tip": DATA.outcomes[row.outcome] || "" }, row.outcome)
      : key === "command" ? (row) => el("button", { class: "small", "data-tip": row.command, onclick: (event) => { navigator.clipboard?.writeText(row.command); event.target.textContent = "copied"; } }, "copy") : null }));
  const grid = table("runs", columns, ROWS, { mark: (row) => row.outcome === "wrong" });
  const filter = { text: "", outcome: "" };
  const tally = el("small", { id: "count" });
  function update() {
    const needles = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = ROWS.filter((row) => (!filter.outcome || row.outcome === filter.outcome)
      && needles.every((needle) => columns.some((c) => c.key !== "command" && String(row[c.key] ?? "").toLowerCase().includes(needle))));
    tally.textContent = `${kept.length} of ${ROWS.length} runs`;
    grid.update(kept);
  }
  const outcomes = [...new Set(ROWS.map((row) => row.outcome))].sort();
  update();
  return el("section", {}, el("h2", {}, "Runs"),
    alike.length ? el("p", { class: "muted" }, `The same for all: ${alike.map((name) => `${name.replaceAll("_", " ")} ${num(ROWS[0][name])}`).join(", ")}.`) : null,
    el("div", { class: "bar" }, el("label", {}, "filter", el("input", { type: "search", id: "filter", placeholder: "words, all must occur", oninput: (event) => { filter.text = event.target.value; update(); } })),
    select("outcome", [["", "any"], ...outcomes.map((name) => [name, name])], (value) => { filter.outcome = value; update(); }, ""), tally), grid);
}

function background() {
  const columns = [{ key: "name", text: true }, { key: "network", text: true }, { key: "domain", text: true }, { key: "neurons" }, { key: "inputs" },
    { key: "active", head: "stably active" }, { key: "inactive", head: "stably inactive" }, { key: "unstable" }, { key: "pending", head: "questions pending" }, { key: "frozen_seconds", head: "frozen set s" }, { key: "frozen_reason", head: "frozen set", text: true }];
  const rows = DATA.instances.map((i) => ({ ...i, active: i.counts?.stably_active, inactive: i.counts?.stably_inactive, unstable: i.counts?.unstable, frozen_reason: i.frozen_reason || "made" }));
  return el("section", {}, el("h2", {}, "Instances"), el("p", { class: "muted" }, "Verdicts of the frozen set: what bounds and falsifying closed once, before all runs that start from it."), table("instances", columns, rows),
    DATA.solver_options.length ? el("div", {}, el("h2", {}, "Options that differ from the solvers' defaults"), el("p", {}, `Threads, limits and the seed apart. None differs for: ${DATA.plain.join(", ") || "no setting"}.`), table("solver_options", ["solver", "step", "solver_options", "option", "value", "default"].map((key) => ({ key, text: true })), DATA.solver_options)) : null,
    DATA.unsupported.length ? el("div", {}, el("h2", {}, "Left out"), table("unsupported", ["formulation", "solver", "step", "reason"].map((key) => ({ key, text: true, wrap: key === "reason" })), DATA.unsupported)) : null,
    el("h2", {}, "The grid"), el("p", { class: "muted" }, Object.entries(DATA.versions).map(([name, version]) => `${name} ${version}`).join(", ")),
    el("details", {}, el("summary", {}, "grid file"), el("pre", {}, DATA.grid)));
}

document.getElementById("page").replaceChildren(...[...header(), contradictions(), glance(), comparison(), maps(), runsTable(), background()].filter(Boolean));
if (DATA.views.length) setView(0);
