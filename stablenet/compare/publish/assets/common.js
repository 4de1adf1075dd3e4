// What both kinds of page use: elements, tables, plots, neuron maps, downloads.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8, DASHES = ["", "6 3", "2 2", "8 3 2 3"];
const VERDICTS = { a: ["stably active", "--active"], i: ["stably inactive", "--inactive"], u: ["unstable", "--unstable"], k: ["unknown", "--unknown"] };

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const sv = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const css = (name) => `var(${name})`;
const colour = (i) => css(`--c${i % COLOURS}`);
const dash = (i) => DASHES[Math.floor(i / COLOURS) % DASHES.length];

function num(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en").replaceAll(",", " ");
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 1e-3 || size === 0 ? String(Number(value.toPrecision(3))) : size >= 1e-5 ? value.toFixed(4) : value.toExponential(1);
}
const count = (n, word) => `${num(n)} ${word}${n === 1 ? "" : "s"}`;
const decade = (value) => 10 ** Math.floor(Math.log10(value) + 1e-9);
const plain = (value) => value !== null && typeof value === "object"
  ? Object.entries(value).filter(([name]) => name !== "solved").map(([name, count]) => `${count} ${name}`).join(", ") : value;

function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Tips follow the pointer; [data-tip] elements have one.
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const owner = event.target.closest ? event.target.closest("[data-tip]") : null;
  tip.hidden = !owner;
  if (!owner) return;
  tip.textContent = owner.dataset.tip;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 6)}px`;
});

function themeButton() {
  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => (dark() ? "light" : "dark");
  const button = el("button", { id: "theme", onclick: () => {
    document.documentElement.dataset.theme = label();
    button.textContent = label();
  } }, label());
  return button;
}

function select(label, options, onchange, value) {
  const box = el("select", { onchange: () => onchange(box.value) },
    options.map(([key, text]) => el("option", { value: key, selected: String(key) === String(value) }, text)));
  return Object.assign(el("label", {}, label, box), { box });
}

// Lines of cells, the first one the heads.
const quote = (x) => /[",\n]/.test(x) ? `"${x.replaceAll('"', '""')}"` : x;
const asCsv = (lines) => lines.map((line) => line.map((x) => quote(String(x ?? ""))).join(",")).join("\n") + "\n";
const TEX = { "\\": "\\textbackslash{}", "^": "\\^{}", "~": "$\\sim$", "<": "$<$", ">": "$>$" };
const tex = (text) => String(text ?? "").replace(/[\\&%$#_{}~^<>]/g, (mark) => TEX[mark] || `\\${mark}`);
function asLatex([heads, ...lines], places) {
  const row = (cells) => `${cells.map(tex).join(" & ")} \\\\`;
  return ["\\begin{tabular}{" + places + "}", "\\toprule", row(heads), "\\midrule", ...lines.map(row), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
const saveButtons = (name, lines, latex) => el("div", { class: "bar" },
  el("button", { class: "small", onclick: () => download(`${name}.csv`, asCsv(lines()), "text/csv") }, "CSV"),
  el("button", { class: "small", onclick: () => download(`${name}.tex`, latex(), "text/plain") }, "LaTeX"));
const svgButton = (name, text) => el("button", { class: "small", onclick: () => download(`${name}.svg`, text(), "image/svg+xml") }, "SVG");

// Columns: {key, head, text, wrap, tip, cell(row)}. Rows are objects.
function table(name, columns, rows, { latex = null, mark = null } = {}) {
  let sorted = null, down = true, shown = rows;
  const body = el("tbody");
  const value = (row, column) => plain(row[column.key]);
  function draw() {
    const order = [...shown];
    if (sorted) {
      const sign = down ? -1 : 1;
      order.sort((a, b) => {
        const [x, y] = [value(a, sorted), value(b, sorted)];
        const [noX, noY] = [x === null || x === undefined || x === "", y === null || y === undefined || y === ""];
        if (noX || noY) return noX - noY;
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
      });
    }
    body.replaceChildren(...order.map((row) => el("tr", { class: mark && mark(row) ? "wrong" : null }, columns.map((column) => {
      const cell = value(row, column);
      return el("td", { class: [column.text && "text", column.wrap && "wrap"].filter(Boolean).join(" ") || null }, column.cell ? column.cell(row) : num(cell));
    }))));
  }
  const heads = columns.map((column) => {
    const head = el("th", { class: column.text ? "text" : null, scope: "col", "data-tip": column.tip || null },
      el("button", { onclick: () => {
        down = sorted === column ? !down : !column.text;
        sorted = column;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        draw();
      } }, column.head || column.key));
    return head;
  });
  const bar = saveButtons(name, () => [columns.map((c) => c.key), ...shown.map((row) => columns.map((c) => value(row, c)))],
    () => latex ?? asLatex([columns.map((c) => c.head || c.key), ...shown.map((row) => columns.map((c) => num(value(row, c))))], columns.map((c) => (c.text ? "l" : "r")).join("")));
  draw();
  const node = el("div", { id: `table-${name}` }, el("div", { class: "scroll", tabindex: "0" },
    el("table", {}, el("thead", {}, el("tr", {}, heads)), body)), bar);
  node.update = (next) => { shown = next; draw(); };
  return node;
}

// On a phone figures are drawn smaller, so that their words stay readable.
const NARROW = innerWidth < 600;
const PLOT = { width: NARROW ? 320 : 520, height: NARROW ? 250 : 320, left: 52, right: 12, top: 8, bottom: 40 };

function scale(low, high, start, end, log) {
  const f = log ? Math.log10 : (x) => x;
  const [a, b] = [f(low), Math.max(f(high), f(low) + 1e-9)];
  const at = (x) => start + Math.min(1, Math.max(0, (f(Math.max(x, log ? 1e-300 : -Infinity)) - a) / (b - a))) * (end - start);
  // Ticks have words, lines have none. Up to two decades show 1, 2 and 5, more of them the decades alone.
  at.ticks = at.lines = [];
  if (!log) at.ticks = [0, 1, 2, 3, 4, 5].map((i) => Number((low + (i * (high - low)) / 5).toPrecision(6)));
  else {
    const within = (factors) => Array.from({ length: Math.ceil(b) - Math.floor(a) + 1 }, (_, d) => d + Math.floor(a))
      .flatMap((d) => factors.map((m) => m * 10 ** d)).filter((t) => f(t) >= a - 1e-9 && f(t) <= b + 1e-9);
    at.ticks = within(b - a > 2.01 ? [1] : [1, 2, 5]);
    if (b - a <= 4.01) at.lines = within([2, 3, 4, 5, 6, 7, 8, 9]);
  }
  return at;
}

// Series: {name, index, points: [[x, y], ...], step, markers, tips}. Saved as SVG with its colours as shown.
function plot(name, spec) {
  const { width, height, left, right, top, bottom } = PLOT;
  const x = scale(...spec.xRange, left, width - right, spec.xLog);
  const y = scale(...spec.yRange, height - bottom, top, spec.yLog);
  const tick = (value) => Math.abs(value) >= 1e-3 || value === 0 ? String(Number(value.toPrecision(3))) : value.toExponential(0);
  const root = sv("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.title });
  for (const t of x.lines) root.append(sv("path", { class: "gridline thin", d: `M${x(t)} ${top}V${height - bottom}` }));
  for (const t of y.lines) root.append(sv("path", { class: "gridline thin", d: `M${left} ${y(t)}H${width - right}` }));
  for (const t of x.ticks) root.append(sv("path", { class: "gridline", d: `M${x(t)} ${top}V${height - bottom}` }),
    sv("text", { x: x(t), y: height - bottom + 15, "text-anchor": "middle" }, tick(t)));
  for (const t of y.ticks) root.append(sv("path", { class: "gridline", d: `M${left} ${y(t)}H${width - right}` }),
    sv("text", { x: left - 5, y: y(t) + 4, "text-anchor": "end" }, tick(t)));
  if (spec.diagonal) root.append(sv("path", { class: "guide", d: `M${left} ${height - bottom}L${width - right} ${top}` }));
  root.append(sv("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    sv("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, spec.xLabel),
    sv("text", { transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.yLabel));
  for (const s of spec.series) {
    if (s.markers) {
      s.points.forEach(([px, py], i) => root.append(sv("circle", { cx: x(px), cy: y(py), r: 4, "fill-opacity": 0.65, style: `fill:${colour(s.index)}`, "data-tip": s.tips[i] })));
      continue;
    }
    let d = "";
    for (const [px, py] of s.points) {
      if (s.step) d += `${d ? "H" : `M${x(spec.xRange[0])} ${y(s.from ?? spec.yRange[0])}H`}${x(px).toFixed(1)}V${y(py).toFixed(1)}`;
      else d += `${d ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
    }
    if (!d) continue;
    if (s.step) d += `H${width - right}`;
    root.append(sv("path", { class: "line", d, style: `stroke:${colour(s.index)};stroke-dasharray:${dash(s.index) || "none"}` }),
      sv("path", { class: "hit", d, "data-tip": s.name }));
  }
  return el("div", { class: "card", id: `figure-${name}` }, el("div", { class: "head" }, el("h3", {}, spec.title),
    svgButton(name, () => standalone(root, spec.series))), root, spec.key ? swatches(spec.series.map((s) => [s.name, colour(s.index)])) : null, spec.note ? el("small", {}, spec.note) : null);
}

// A figure as a file: its styles as they are shown, with a legend of its series below.
function standalone(root, series = []) {
  const { width, height: tall } = root.viewBox.baseVal;
  const copy = root.cloneNode(true);
  const originals = root.querySelectorAll("*"), copies = copy.querySelectorAll("*");
  originals.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const key of ["fill", "stroke", "opacity", "stroke-width", "stroke-dasharray", "fill-opacity", "font-size"]) copies[i].setAttribute(key, style.getPropertyValue(key));
    copies[i].setAttribute("font-family", "sans-serif");
    for (const key of ["class", "style", "data-tip"]) copies[i].removeAttribute(key);
  });
  const legend = series.length > 1 || !series.some((s) => s.markers) ? series : [];
  const height = tall + 16 * legend.length + (legend.length ? 8 : 0);
  legend.forEach((s, i) => {
    const at = tall + 10 + 16 * i;
    const shade = getComputedStyle(document.documentElement).getPropertyValue(`--c${s.index % COLOURS}`).trim();
    copy.append(s.markers ? sv("circle", { cx: PLOT.left + 12, cy: at, r: 4, fill: shade })
      : sv("path", { d: `M${PLOT.left} ${at}h24`, stroke: shade, "stroke-width": 2, "stroke-dasharray": dash(s.index) || "none" }),
      sv("text", { x: PLOT.left + 30, y: at + 4, "font-size": 11, "font-family": "sans-serif", fill: getComputedStyle(document.body).color }, s.name));
  });
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("viewBox", `0 0 ${width} ${height}`);
  copy.prepend(sv("rect", { width, height, fill: getComputedStyle(root.closest(".card")).backgroundColor }));
  return new XMLSerializer().serializeToString(copy);
}

// Figures with a line of words above each, and swatches below, as one file.
function stacked(parts, entries) {
  const ground = getComputedStyle(parts[0][1].closest(".card")).backgroundColor, ink = getComputedStyle(document.body).color;
  const words = (text, x, y) => `<text x="${x}" y="${y}" font-family="sans-serif" font-size="11" fill="${ink}">${quoted(text)}</text>`;
  let y = 8, body = "", wide = 0;
  for (const [title, root] of parts) {
    const { width, height } = root.viewBox.baseVal;
    body += words(title, 8, y + 10) + standalone(root).replace("<svg", `<svg x="8" y="${y + 16}" width="${width}" height="${height}"`);
    [y, wide] = [y + height + 26, Math.max(wide, width + 16)];
  }
  entries.forEach(([name, shade], i) => { body += `<rect x="${8 + 130 * i}" y="${y}" width="10" height="10" style="fill:${resolved(shade)}"/>` + words(name, 23 + 130 * i, y + 9); });
  const size = [Math.max(wide, 8 + 130 * entries.length), y + 20];
  return `<svg xmlns="${SVG}" viewBox="0 0 ${size.join(" ")}"><rect width="100%" height="100%" fill="${ground}"/>${body}</svg>`;
}
const quoted = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const resolved = (shade) => shade.replace(/var\((--[a-z0-9]+)\)/, (_, name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim());

// A neuron map: squares by layer. `paint(i)` gives colour and text of neuron i (numbered through all layers).
function neuronMap(layers, paint, entries) {
  const size = 11, wide = NARROW ? 30 : 60;
  let offset = 0;
  const parts = layers.map((layer) => {
    const columns = Math.min(wide, Math.max(20, layer.size));
    const rows = Math.ceil(layer.size / columns);
    const root = sv("svg", { viewBox: `0 0 ${wide * size} ${rows * size}`, role: "img", "aria-label": `layer ${layer.layer}` });
    for (let i = 0; i < layer.size; i++) {
      const [fillColour, text] = paint(offset + i);
      root.append(sv("rect", { x: (i % columns) * size, y: Math.floor(i / columns) * size, width: size - 1.5, height: size - 1.5,
        style: `fill:${fillColour}`, "data-tip": `layer ${layer.layer}, neuron ${i}: ${text}` }));
    }
    offset += layer.size;
    return [`layer ${layer.layer} ${layer.name}, ${layer.size} neurons`, root];
  });
  return el("div", { class: "neurons" }, parts.map(([title, root]) => el("div", {}, el("small", {}, title), root)), svgButton("neurons", () => stacked(parts, entries)));
}

const question = (sources, letter) => {
  const code = letter.charCodeAt(0) - 48;
  return code === 0 ? { state: "open", by: null } : { state: (code - 1) % 2 ? "refuted" : "witnessed", by: (code - 1) >> 1, name: sources[(code - 1) >> 1] };
};

// Painters of a map: by verdict, or by what closed one side's question.
function painter(map, sources, mode) {
  const words = (i) => ["positive", "negative"].map((side) => {
    const q = question(sources, map[side][i]);
    return `${side}: ${q.state}${q.name ? ` by ${q.name}` : ""}`;
  }).join("; ");
  if (mode === "verdict") return (i) => [css(VERDICTS[map.verdict[i]][1]), `${VERDICTS[map.verdict[i]][0]} (${words(i)})`];
  return (i) => {
    const q = question(sources, map[mode][i]);
    return [q.by === null ? css("--unknown") : colour(q.by), words(i)];
  };
}

function keyEntries(mode, sources) {
  return mode === "verdict" ? Object.values(VERDICTS).map(([name, variable]) => [name, css(variable)])
    : [...sources.map((name, i) => [name, colour(i)]), ["open", css("--unknown")]];
}

// The map with its key.
function drawMap(place, layers, run, sources, mode) {
  const entries = keyEntries(mode, sources);
  place.replaceChildren(swatches(entries), neuronMap(layers, painter(run, sources, mode), entries));
}

const swatches = (entries) => el("div", { class: "bar" }, entries.map(([name, shade]) => el("small", {}, el("span", { class: "swatch", style: `background:${shade}` }), name)));

const tile = (value, label) => el("div", { class: "tile" }, el("b", {}, value), el("small", {}, label));
