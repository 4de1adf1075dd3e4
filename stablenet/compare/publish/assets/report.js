// The page of a single report.
const NEURONS = DATA.map.verdict.length;

// On what inputs the verdicts hold, and what they say.
function meaning() {
  const r = DATA.domain.range, width = r.widest - r.narrowest > 1e-9 * r.widest ? `${num(r.narrowest)} to ${num(r.widest)}` : num(r.widest);
  const where = `Inputs lie between ${num(r.lower)} and ${num(r.upper)}, each in an interval of width ${width}`
    + (r.fixed ? `; ${r.fixed} of ${DATA.network.n_inputs} are fixed. ` : ". ");
  return where + "On all of these inputs a stably active neuron has a pre-activation of at least 0 (its ReLU is the identity), a stably inactive one of at most 0 (its ReLU is 0); "
    + "an unstable neuron takes both signs, as two inputs show; of an unknown one nothing is proven.";
}

// The layers in order, each a column as high as the logarithm of its size, with shares of verdicts.
function layers() {
  const sizes = DATA.network.layers.map((layer) => layer.size), n = sizes.length;
  if (!n) return null;
  const { width } = PLOT, height = 190, top = 10, bottom = 36, room = width / n, most = Math.log1p(Math.max(...sizes));
  const root = sv("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "layers with the verdicts of their neurons" });
  let offset = 0;
  sizes.forEach((size, k) => {
    const high = Math.max(6, (Math.log1p(size) / most) * (height - top - bottom)), x = (k + 0.15) * room, wide = Math.min(0.7 * room, 90);
    const letters = DATA.map.verdict.slice(offset, offset + size);
    offset += size;
    let y = top + (height - top - bottom - high) / 2;
    if (k) root.append(sv("path", { class: "axis", d: `M${x - 0.3 * room} ${(height - bottom + top) / 2}H${x}` }));
    for (const [letter, [name, colour]] of Object.entries(VERDICTS)) {
      const count = letters.split(letter).length - 1;
      if (!count) continue;
      root.append(sv("rect", { x, y, width: wide, height: (high * count) / size, style: `fill:${css(colour)}`, "data-tip": `layer ${k} ${DATA.network.layers[k].name}: ${count} of ${size} ${name}` }));
      y += (high * count) / size;
    }
    if (room > 24 || k % Math.ceil(24 / room) === 0) root.append(sv("text", { x: x + wide / 2, y: height - 18, "text-anchor": "middle" }, String(k)), ...(room > 44 ? [sv("text", { x: x + wide / 2, y: height - 4, "text-anchor": "middle" }, String(size))] : []));
  });
  return el("section", { id: "layers" }, el("h2", {}, "Layers"), el("div", { class: "card" }, el("div", { class: "head" }, el("h3", {}, "number, and neurons; height grows with the logarithm"), svgButton("layers", () => standalone(root))), root));
}

function header() {
  const c = DATA.counts, stable = c.stably_active + c.stably_inactive;
  const file = DATA.network.file || "network";
  return [
    el("header", {}, el("h1", {}, file.split("/").pop()), themeButton()),
    el("p", { class: "muted" }, `${DATA.network.n_inputs} inputs, ${NEURONS} neurons in ${DATA.network.layers.length} layers; domain: ${DATA.domain.kind}${DATA.domain.parts > 1 ? ` of ${DATA.domain.parts} parts` : ""}; `
      + `${DATA.config.formulation}, ${DATA.config.bounds}, ${DATA.config.search}, ${DATA.config.solver}; ${DATA.created.replace("T", " ").slice(0, 16)} UTC`),
    el("p", { id: "meaning" }, meaning()),
    ...(DATA.folded ? [el("p", { id: "folded" }, DATA.folded)] : []),
    ...(DATA.arithmetic ? [el("p", { id: "arithmetic" }, DATA.arithmetic)] : []),
    el("div", { class: "tiles" }, tile(`${stable} of ${NEURONS}`, "stable"), tile(c.stably_active, "stably active"), tile(c.stably_inactive, "stably inactive"), tile(c.unstable, "unstable"),
      tile(c.unknown, "unknown"), tile(c.rigorous, "on rigorous evidence"), tile(`${num(DATA.seconds.total)} s`, DATA.status === "complete" ? "complete" : `stopped by ${DATA.stopped_by}`)),
  ];
}

function contradictions() {
  if (!DATA.contradictions.length) return null;
  return el("section", { class: "bad", id: "contradictions" }, el("h2", {}, "Contradictions"), el("ul", {}, DATA.contradictions.map((item) =>
    el("li", {}, `${item.source} refuted that neuron ${item.neuron} of layer ${item.layer} can be ${item.side}, and witness ${item.witness} shows it`))));
}

function map() {
  const place = el("div");
  const draw = (mode) => drawMap(place, DATA.network.layers, DATA.map, DATA.map.sources, mode);
  draw("verdict");
  return el("section", { id: "maps" }, el("h2", {}, "Neurons"), el("div", { class: "card" }, el("div", { class: "bar" },
    select("colour", [["verdict", "by verdict"], ["positive", "what closed: can be positive"], ["negative", "what closed: can be negative"]], draw, "verdict")), place));
}

// Bounds of a layer's neurons, in order of their lower bound; 0 is the line that decides.
function boundsCard(layer, offset) {
  const size = layer.size, order = [...Array(size).keys()].map((i) => offset + i).filter((i) => DATA.lower[i] !== null && DATA.upper[i] !== null)
    .sort((a, b) => DATA.lower[a] - DATA.lower[b]);
  const f = (v) => Math.asinh(v), low = Math.min(0, ...order.map((i) => f(DATA.lower[i]))), high = Math.max(0, ...order.map((i) => f(DATA.upper[i])));
  const { width, left, right, top } = PLOT, height = 220, bottom = 12;
  const y = (v) => top + ((high - f(v)) / (high - low || 1)) * (height - top - bottom), step = (width - left - right) / Math.max(1, order.length);
  const root = sv("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `bounds of layer ${layer.layer}` });
  const ticks = [-100, -10, -1, 0, 1, 10, 100].filter((t) => f(t) >= low && f(t) <= high);
  for (const t of ticks) root.append(sv("path", { class: t === 0 ? "axis" : "gridline", d: `M${left} ${y(t)}H${width - right}` }), sv("text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, String(t)));
  root.append(sv("text", { transform: `translate(12 ${height / 2}) rotate(-90)`, "text-anchor": "middle" }, "pre-activation"));
  order.forEach((i, k) => root.append(sv("path", { d: `M${left + (k + 0.5) * step} ${y(DATA.upper[i])}V${Math.max(y(DATA.lower[i]), y(DATA.upper[i]) + 1.5)}`, "stroke-width": Math.max(1, step * 0.8), style: `stroke:${css(VERDICTS[DATA.map.verdict[i]][1])}`,
    "data-tip": `neuron ${i - offset}: ${num(DATA.lower[i])} to ${num(DATA.upper[i])}, ${VERDICTS[DATA.map.verdict[i]][0]}` })));
  return el("div", { class: "card" }, el("div", { class: "head" }, el("h3", {}, `layer ${layer.layer} ${layer.name}`), svgButton(`bounds-${layer.layer}`, () => standalone(root))), root);
}

function bounds() {
  let offset = 0;
  const cards = DATA.network.layers.map((layer) => { const card = boundsCard(layer, offset); offset += layer.size; return card; });
  return el("section", { id: "bounds" }, el("h2", {}, "Bounds on pre-activations"), el("p", { class: "muted" }, "One line for each neuron, from lower to upper bound on the domain, in order of the lower one; the scale is linear near 0 and logarithmic far from it."), el("div", { class: "grid" }, cards));
}

// Two questions for each neuron; those that were not needed for its verdict may be open.
function sources() {
  const rows = DATA.map.sources.map((by) => ({ by, witnessed: 0, refuted: 0 }));
  for (const letter of DATA.map.positive + DATA.map.negative) {
    const q = question(DATA.map.sources, letter);
    if (q.by !== null) rows[q.by][q.state] += 1;
  }
  return rows.filter((row) => row.witnessed + row.refuted).sort((a, b) => b.witnessed + b.refuted - a.witnessed - a.refuted);
}

function progress() {
  if (!DATA.curve.length) return null;
  const top = Math.max(...DATA.curve.map(([t]) => t), 0.02), most = Math.max(...DATA.curve.map(([, n]) => n), 1);
  const points = DATA.curve.map(([t, n]) => [Math.max(t, 1e-3), n / most]);
  const kinds = [["by", true], ["rows"], ["binaries"], ["nodes"], ["root_bound"], ["dual_bound"], ["build_s"], ["translate_s"], ["cuts_s"], ["solver_s"], ["status", true]].map(([key, text]) => ({ key, head: key.replaceAll("_", " "), text }));
  return el("section", {}, el("h2", {}, "The run"), el("div", { class: "grid" },
    plot("curve", { title: "Questions left open over time", xLabel: "seconds", yLabel: `share of ${most} questions`, xLog: true, xRange: [1e-3, top], yRange: [0, 1], series: [{ name: "pending", index: 0, points, step: true, from: 1 }] }),
    el("div", { class: "card" }, el("h3", {}, "What closed the questions"), table("sources", [{ key: "by", text: true }, { key: "witnessed" }, { key: "refuted" }], sources()),
      el("h3", {}, "Seconds"), table("seconds", Object.keys(DATA.seconds).map((key) => ({ key })), [DATA.seconds]))),
    DATA.solves.length ? table("solves", kinds, DATA.solves) : null);
}

function image(point, shape) {
  const [channels, rows, columns] = shape, canvas = el("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  const low = Math.min(...point), span = Math.max(...point) - low || 1;
  const grey = (c, i) => 255 * ((point[(channels === 1 ? 0 : c) * rows * columns + i] - low) / span);
  for (let i = 0; i < rows * columns; i++) pixels.data.set([grey(0, i), grey(1, i), grey(2, i), 255], 4 * i);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function witnesses() {
  if (!DATA.witnesses.length) return null;
  const more = DATA.n_witnesses > DATA.witnesses.length ? ` The first ${DATA.witnesses.length} of ${DATA.n_witnesses} are shown.` : "";
  const body = DATA.shape.length
    ? el("div", { class: "images" }, DATA.witnesses.map((point, i) => el("figure", {}, image(point, DATA.shape), el("figcaption", {}, `${i}: closes ${DATA.closes[i]}`))))
    : table("witnesses", [{ key: "number" }, { key: "closes", head: "closes" }, ...DATA.witnesses[0].slice(0, 40).map((_, k) => ({ key: `x${k}` }))],
      DATA.witnesses.map((point, i) => ({ number: i, closes: DATA.closes[i], ...Object.fromEntries(point.slice(0, 40).map((v, k) => [`x${k}`, v])) })));
  return el("section", { id: "witnesses" }, el("h2", {}, "Witnesses"), el("p", { class: "muted" }, `Inputs of the domain whose forward pass closes questions${DATA.shape.length ? ", each shaded from its least to its greatest value" : ""}.${more}`), body);
}

window.stablenet = { DATA };
document.getElementById("page").replaceChildren(...[...header(), contradictions(), layers(), map(), bounds(), progress(), witnesses()].filter(Boolean));
