const data = JSON.parse(document.getElementById("data").textContent), chosen = {};
const place = (name) => document.querySelector(`[data-chart="${name}"]`);
const width = () => Math.min(920, document.querySelector("main").clientWidth || 600);
const nameOf = Object.fromEntries(data.languages.map(([code, name]) => [code, name]));

function picker(name, label, options) {
  return element("div", { class: "controls" }, choice(label, options.map((text, at) => [String(at), text]), String(chosen[name] ?? 0), (value) => { chosen[name] = Number(value); draw(name); }, "broad"));
}

function curves() {
  const groups = [...new Set(data.points.map((point) => point[1].join(" ")))].map((langs) => langs.split(" ")).sort((a, b) => b.length - a.length);
  if (!groups.length) return [element("p", { class: "empty" }, "No cell has been measured yet.")];
  const order = data.languages.map(([code]) => code), single = (langs) => (langs.length === 1 ? order.indexOf(langs[0]) : -1);
  groups.sort((a, b) => single(a) - single(b));
  const langs = groups[chosen.curves ?? 0], key = langs.join(" ");
  const lines = data.arms.map(([name, family]) => ({ name, family, points: data.points.filter((point) => point[0] === name && point[1].join(" ") === key).map(([, , x, y]) => ({ x, y })).sort((a, b) => a.x - b.x) })).filter(({ points }) => points.length);
  takeTurns(lines);
  const inside = data.languages.filter(([code]) => langs.includes(code)), mean = (at) => (inside.every((each) => each[at] != null) ? inside.reduce((sum, each) => sum + each[at], 0) / inside.length : null);
  const label = (each) => (each.length === 1 ? nameOf[each[0]] : `Mean of ${each.length} languages`);
  return [picker("curves", "Language", groups.map(label)), element("p", { class: "print-only" }, label(langs)), element("figure", {}, sizePlot(panelsOf(lines, width()), width(), { ceiling: mean(2), chance: mean(3) }, data.metric)), legend(lines)];
}

function forest(name) {
  const kept = data[name].filter(({ lines }) => lines.length);
  if (!kept.length) return [element("p", { class: "empty" }, "No comparison is possible yet.")];
  const { name: title, sides, lines } = kept[chosen[name] ?? 0];
  const drawn = lines.map(([label, rival, gain]) => ({ label, group: rival && `against ${rival}`, gain }));
  const rows = lines.filter((line) => line.length > 1).map(([label, rival, gain, significant], at) => element("tr", {}, element("th", { scope: "row" }, `${headingOf(lines, at)}, ${label}`), element("td", {}, element("bdi", {}, rival)), gain.slice(0, 3).map((value) => element("td", { class: "num" }, value == null ? "–" : signed(value))), element("td", {}, significant ? "significant" : "not significant")));
  return [picker(name, "Difference", kept.map((each) => each.name)), element("p", { class: "print-only" }, title),
    element("div", { class: drawn.length > 40 ? "scroll tall" : "", tabindex: drawn.length > 40 ? "0" : null }, forestPlot(drawn, Math.min(width() - 4, 760), title, sides)),
    numbers(["Size and language", "Against", "Difference", "Low", "High", "After Holm"], rows)];
}

function headingOf(lines, at) {
  let heading = "", seen = -1;
  for (const line of lines) {
    if (line.length === 1) heading = line[0];
    else if (++seen === at) break;
  }
  return heading;
}

function draw(name) {
  place(name)?.replaceChildren(...(name === "curves" ? curves() : forest(name)));
}

const charts = ["curves", "forest", "facets", "ablations"];
let timer = 0, before = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === before) return;
  before = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(() => charts.forEach(draw), 100);
});
themeButton();
charts.forEach(draw);
