// Charts as SVG. The numbers of each chart are also in a table next to it.
const one = (value) => value.toFixed(1).replace(/^-0\.0$/, "0.0");
const signed = (value) => (value > 0 ? "+" : "") + one(value);
const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "12 4", "1 2"];
function marker(family, x, y) {
  return family === "KD" ? shape("rect", { class: family, x: x - 4, y: y - 4, width: 8, height: 8 }) : shape("circle", { class: family, cx: x, cy: y, r: 4.5 });
}
function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough)), step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough), ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(Number((k * step).toFixed(6)));
  return ticks;
}
// Lines of one color have different dashes.
function takeTurns(lines) {
  for (const line of lines) line.turn = lines.filter(({ family }) => family === line.family).indexOf(line);
}
function legend(lines) {
  const mark = ({ family, turn }) => shape("svg", { width: 26, height: 12, "aria-hidden": "true" }, shape("line", { class: `line ${family}`, x1: 0, x2: 26, y1: 6, y2: 6, "stroke-dasharray": DASHES[turn % DASHES.length] }), marker(family, 13, 6));
  return element("ul", { class: "legend" }, lines.map((line) => element("li", {}, mark(line), element("bdi", {}, line.name))));
}
// Standard distillation and all other methods get a plot each if there is room for two.
function panelsOf(lines, width) {
  const standard = lines.filter(({ family }) => family === "KD"), others = lines.filter(({ family }) => family !== "KD");
  if (width < 640 || !standard.length || !others.length) return [{ title: "", lines }];
  return [{ title: "Standard (KD)", lines: standard }, { title: others.some(({ family }) => family === "none") ? "Transport (OT) and controls" : "Transport (OT)", lines: others }];
}

// panels: {title, lines}. A line: {name, family, turn, points: [{x, y: [score, low, high]}]}, with points in order of x.
function sizePlot(panels, width, references, metric) {
  const all = panels.flatMap(({ lines }) => lines).flatMap(({ points }) => points), high = Math.max(...all.map(({ y }) => y[2] ?? y[0]), references.ceiling ?? 0) * 1.05 || 1;
  const height = 320, left = 40, top = 24, bottom = 44, gap = 24, each = (width - left - 10 - gap * (panels.length - 1)) / panels.length;
  const low = Math.min(...all.map(({ x }) => x)) / 1.5, most = Math.max(...all.map(({ x }) => x)) * 1.5;
  const y = (value) => height - bottom - ((height - bottom - top) * value) / high;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${metric} against the number of sentence pairs; the same numbers are in the table below` });
  const ticks = niceTicks(0, high, 5);
  panels.forEach(({ title, lines }, panel) => {
    const begin = left + panel * (each + gap), x = (value) => begin + (each * Math.log(value / low)) / Math.log(most / low);
    for (const tick of ticks) {
      svg.append(shape("line", { class: "grid", x1: begin, x2: begin + each, y1: y(tick), y2: y(tick) }));
      if (!panel) svg.append(shape("text", { class: "soft", x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    let last = -Infinity;
    for (const pairs of [...new Set(all.map(({ x }) => Math.round(x)))].sort((a, b) => a - b)) {
      if (x(pairs) - last < 46) continue;
      last = x(pairs);
      svg.append(shape("text", { class: "soft", x: last, y: height - bottom + 18, "text-anchor": "middle" }, pairs.toLocaleString("en")));
    }
    if (title) svg.append(shape("text", { x: begin + each / 2, y: 14, "text-anchor": "middle", "font-weight": 600 }, title));
    for (const [value, dash] of [[references.ceiling, "6 4"], [references.chance, "1 4"]]) if (value != null) svg.append(shape("line", { class: "zero", x1: begin, x2: begin + each, y1: y(value), y2: y(value), "stroke-dasharray": dash }));
    lines.forEach(({ name, family, turn, points }, place) => {
      const shift = (place - (lines.length - 1) / 2) * Math.min(9, 60 / lines.length), at = (point) => x(point.x) + shift;
      svg.append(shape("polyline", { class: `line ${family}`, points: points.map((point) => `${at(point)},${y(point.y[0])}`).join(" "), "stroke-dasharray": DASHES[turn % DASHES.length] }));
      for (const point of points) {
        const about = shape("title", {}, `${name}: ${one(point.y[0])}${interval(point.y, one)}`);
        const bar = point.y[1] == null ? [] : [shape("line", { class: `bar ${family}`, x1: at(point), x2: at(point), y1: y(point.y[1]), y2: y(point.y[2]) })];
        svg.append(shape("g", {}, about, ...bar, marker(family, at(point), y(point.y[0]))));
      }
    });
  });
  svg.append(shape("text", { class: "soft", x: left + (width - left) / 2, y: height - 6, "text-anchor": "middle" }, "sentence pairs (logarithmic)"));
  return svg;
}
function interval([, low, high], form) { return low == null || high == null ? "" : ` [${form(low)}, ${form(high)}]`; }
// A line: {label, group, gain: [difference, low, high, mark]}. A line without a gain is a heading.
// mark: 0 not significant, 1 significant, 2 a mean that is significant or not tested, 3 a mean that is not significant.
function forestPlot(lines, width, name, sides = ["standard", "transport"]) {
  const left = Math.min(150, width * 0.34), right = 54, step = 22, top = 8, height = top + step * lines.length + 46;
  const reach = Math.max(...lines.flatMap(({ gain }) => (gain ? gain.slice(0, 3).map((value) => Math.abs(value ?? 0)) : [])), 0.5) * 1.05;
  const x = (value) => left + ((width - left - right) * (value + reach)) / (2 * reach);
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}; the same numbers are in the table below` });
  const end = top + step * lines.length, fitting = (text, room) => (text.length > room / 7.5 ? `${text.slice(0, Math.floor(room / 7.5) - 1)}…` : text);
  for (const tick of niceTicks(-reach, reach, width < 500 ? 4 : 7)) {
    svg.append(shape("line", { class: tick ? "grid" : "zero", x1: x(tick), x2: x(tick), y1: top, y2: end }), shape("text", { class: "soft", x: x(tick), y: end + 16, "text-anchor": "middle" }, tick > 0 ? `+${tick}` : String(tick)));
  }
  lines.forEach(({ label, group, gain }, place) => {
    const y = top + step * (place + 0.5);
    if (!gain) {
      svg.append(shape("text", { class: "soft", x: 0, y: y + 4, "font-weight": 600 }, label));
      return;
    }
    const [value, low, high, apart] = gain, family = value < 0 ? "KD" : "OT";
    const from = low ?? value, to = high ?? value;
    const mark = apart >= 2 ? shape("path", { class: `bar ${family}${apart === 3 ? " hollow" : ""}`, d: `M${x(from)} ${y} L${x(value)} ${y - 6} L${x(to)} ${y} L${x(value)} ${y + 6} Z` })
      : shape("g", {}, shape("line", { class: `bar ${family}`, x1: x(from), x2: x(to), y1: y, y2: y }), shape("circle", { class: `bar ${family}${apart ? "" : " hollow"}`, cx: x(value), cy: y, r: 4.5 }));
    svg.append(shape("g", {}, shape("title", {}, `${label}${group ? `, ${group}` : ""}: ${signed(value)}${interval(gain, signed)}`),
      shape("text", { x: left - 10, y: y + 4, "text-anchor": "end", "font-weight": apart >= 2 ? 700 : 400 }, fitting(label, left)), mark,
      shape("text", { class: "soft", x: width - 4, y: y + 4, "text-anchor": "end" }, signed(value))));
  });
  const [first, second] = width < 500 && sides[0] === "standard" ? ["KD", "OT"] : sides.map((side) => fitting(side, width / 2 - 90));
  const below = width < 500 ? `← ${first} better · ${second} better →` : `← ${first} better · points · ${second} better →`;
  svg.append(shape("text", { class: "soft", x: x(0), y: height - 8, "text-anchor": "middle" }, below));
  return svg;
}
function numbers(heads, lines) {
  const style = (text, place) => (place && text !== "All together" ? "num" : "");
  return element("details", { class: "plain" }, element("summary", {}, "Numbers of this plot"), element("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Numbers of the plot" },
    element("table", { class: "records" }, element("thead", {}, element("tr", {}, heads.map((text, place) => element("th", { scope: "col", class: style(text, place) }, text)))), element("tbody", {}, lines))));
}
