class Leaderboard {
  constructor(section, data) {
    this.section = section;
    this.data = data;
    this.filters = { text: "", scope: "", family: "", method: "", encoder: "", wide: false };
    this.order = { key: "rank", down: false };
    this.body = section.querySelector("table.board tbody");
    this.heads = [...section.querySelectorAll("table.board thead th")];
    this.lines = [...this.body.rows].map((line) => ({
      line, index: Number(line.dataset.row), text: line.textContent.toLowerCase(), sources: line.querySelector('[data-part="source"] bdi').textContent,
      kinds: line.querySelector('[data-part="kind"] bdi').textContent,
    }));
    this.places = Object.fromEntries(data.columns.map((column, place) => [`l:${column[0]}`, place]));
    this.contrast = 0;
    this.sizeEncoder = null;
    this.prepare();
  }

  prepare() {
    for (const control of this.section.querySelectorAll("[data-filter]")) {
      const name = control.dataset.filter, read = () => (control.type === "checkbox" ? control.checked : control.value);
      this.filters[name] = read();
      control.addEventListener(name === "text" ? "input" : "change", () => { this.filters[name] = read(); this.show(); });
    }
    this.section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    for (const head of this.heads) {
      const label = [...head.childNodes].filter((node) => node.nodeName !== "SMALL");
      const button = element("button", { type: "button", class: "sort" });
      button.append(...label);
      head.prepend(button);
      button.addEventListener("click", () => {
        const key = head.dataset.key, numeric = head.classList.contains("num") && key !== "rank";
        this.order = { key, down: this.order.key === key ? !this.order.down : numeric };
        this.sort();
      });
    }
    for (const { line, index } of this.lines) {
      const button = line.querySelector(".more");
      button.addEventListener("click", () => this.toggle(line, index, button));
    }
  }

  ranked(row) {
    const scope = this.filters.scope;
    if (scope === "") return row.all ? row.all.slice(0, 5) : null;
    if (scope.startsWith("g:")) return row.groups[scope.slice(2)] || null;
    return row.cells[this.places[scope]] || null;
  }

  visible() {
    const { text, family, method, encoder, scope } = this.filters, words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return this.lines.filter(({ text, index }) => {
      const row = this.data.rows[index];
      return words.every((word) => text.includes(word)) && (!family || row.family === family) && (!method || row.method === method) &&
        (!encoder || row.encoder === encoder) && !(scope.startsWith("l:") && !row.cells[this.places[scope]]);
    });
  }

  columns() {
    const scope = this.filters.scope;
    if (scope.startsWith("l:")) return [this.places[scope]];
    return this.data.columns.map((column, place) => place).filter((place) => !scope || `g:${this.data.columns[place][2]}` === scope);
  }

  show() {
    const seen = new Set(this.visible().map(({ line }) => line));
    for (const { line } of this.lines) {
      line.hidden = !seen.has(line);
      if (line.nextElementSibling?.classList.contains("details")) line.nextElementSibling.hidden = line.hidden;
    }
    this.showColumns();
    this.showRanks();
    this.sort();
    this.section.querySelector('[data-part="status"]').textContent =
      `${seen.size} of ${this.lines.length} rows` + (this.filters.scope.startsWith("l:") ? `, ${this.data.columns[this.places[this.filters.scope]][1]}` : "");
    this.charts();
  }

  showColumns() {
    const { scope, wide } = this.filters;
    for (const cell of this.section.querySelectorAll("table.board [data-scope]")) {
      const own = cell.dataset.scope === scope;
      const on = cell.classList.contains("language") ? own || (wide && (scope === "" || cell.dataset.group === scope)) : own || scope === "";
      cell.classList.toggle("off", !on);
    }
  }

  showRanks() {
    const scope = this.filters.scope, column = scope.startsWith("l:") ? this.data.columns[this.places[scope]] : null;
    for (const { line, index, sources, kinds } of this.lines) {
      const row = this.data.rows[index], [first, last] = this.ranked(row)?.slice(3, 5) ?? [], cell = line.cells[0];
      // A disputed row has no rank. It is sorted with the row that it disagrees with.
      cell.dataset.v = this.ranked(this.data.rows[row.below])?.[3] ?? "";
      cell.replaceChildren(first ? String(first) : "–", element("small", {}, last > first ? `${first}–${last}` : ""));
      cell.title = first ? `rank ${first}; 95 % confidence set ${first} to ${last}` : row.unranked || row.below === index ? "not ranked: languages are missing" : "not ranked: disputed";
      line.querySelector('[data-part="source"] bdi').textContent = column ? column[3] : sources;
      line.querySelector('[data-part="kind"] bdi').textContent = column ? column[4] : kinds;
    }
  }

  sort() {
    const { key, down } = this.order, place = this.heads.findIndex((head) => head.dataset.key === key), numeric = this.heads[place].classList.contains("num");
    const value = ({ line }) => {
      const cell = line.cells[place];
      return numeric ? cell.dataset.v : (cell.querySelector("bdi") || cell).textContent.trim().toLowerCase();
    };
    const best = ({ index }) => -(this.ranked(this.data.rows[this.data.rows[index].below])?.[0] ?? -1);
    const sorted = [...this.lines].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
      const compared = numeric ? x - y : x < y ? -1 : Number(x > y);
      return (down ? -compared : compared) || best(a) - best(b) || a.index - b.index;
    });
    for (const { line } of sorted) {
      const details = line.nextElementSibling?.classList.contains("details") ? line.nextElementSibling : null;
      this.body.append(line);
      if (details) this.body.append(details);
    }
    for (const head of this.heads) {
      if (head.dataset.key === key) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  toggle(line, index, button) {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) line.nextElementSibling.remove();
    else line.after(element("tr", { class: "details" }, element("td", { colspan: this.heads.length }, this.details(this.data.rows[index]))));
  }

  details(row) {
    const words = this.data.words, columns = this.columns().filter((place) => row.cells[place]), first = columns[0] ?? row.cells.findIndex(Boolean);
    const fill = (text, place, seed) => text.replaceAll("{lang}", this.data.columns[place][0]).replaceAll("{seed}", seed);
    const seed = row.cells[first][6][0][0], [start, middle, data] = row.again;
    const command = `${start}${this.data.columns[first][0]}${middle}${middle.endsWith("--seed ") ? seed : ""}${data}`;
    const facts = [["encoder", row.encoder], ["fingerprint", row.fingerprint], ...row.config];
    const list = element("dl", {}, facts.map(([name, value]) => [element("dt", {}, name), element("dd", {}, element("bdi", {}, value))]));
    const lines = columns.flatMap((place) => row.cells[place][6].map(([number, cell, where, pairs, typed]) => element("tr", {},
      element("th", { scope: "row" }, this.data.columns[place][1]), element("td", { class: "num" }, row.config.length ? number : ""), element("td", {}, element("code", {}, cell)),
      element("td", {}, element("bdi", {}, words[pairs])), element("td", {}, element("bdi", {}, words[where])),
      element("td", {}, element("code", {}, fill(words[typed], place, number))))));
    const heads = ["Language", "Seed", "Record", "Bitext", "Measured", "Command as typed"].map((text) => element("th", { scope: "col" }, text));
    return element("div", { class: "inside" },
      element("p", {}, element("strong", {}, `Command to reproduce this row (${this.data.columns[first][1]}${row.config.length ? `, seed ${seed}` : ""}) `), copyButton(command)),
      element("pre", {}, command), row.config.length ? element("details", {}, element("summary", {}, "All options"), list) : null,
      element("p", {}, element("strong", {}, "Records")),
      element("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Records of this row" },
        element("table", { class: "records" }, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, lines))));
  }

  charts() {
    if (this.section.hidden) return;
    const rows = this.visible().map(({ index }) => index).sort((a, b) => a - b);
    this.part("heat").replaceChildren(this.heat(rows));
    this.part("size").replaceChildren(...this.size(rows));
    this.part("forest").replaceChildren(...this.forest(rows));
  }

  part(name) { return this.section.querySelector(`[data-part="${name}"]`); }

  short(row, others) {
    const trained = others.map((other) => this.data.rows[other]).filter((other) => other.init), many = (field) => new Set(trained.map((other) => other[field])).size > 1;
    return [row.method, row.options, many("init") && row.init, many("pairs") && row.pairs && `${row.pairs} pairs`, many("encoder") && row.encoder].filter(Boolean).join(" · ");
  }

  heat(rows) {
    const columns = this.columns(), values = rows.flatMap((index) => columns.map((place) => this.data.rows[index].cells[place]?.[0])).filter((value) => value !== undefined);
    if (!values.length) return element("p", { class: "empty" }, "No row matches the filters.");
    const top = Math.max(...values, 1e-9), step = (value) => Math.min(8, Math.floor((9 * value) / top));
    const head = element("tr", {}, element("th", { scope: "col" }, "Language"), rows.map((index) => element("th", { scope: "col" }, element("bdi", {}, this.short(this.data.rows[index], rows)))));
    const lines = [];
    let group = null;
    for (const place of columns) {
      const [code, name, inside] = this.data.columns[place];
      if (inside !== group && inside) lines.push(element("tr", { class: "group" }, element("th", { scope: "rowgroup", colspan: rows.length + 1 }, inside)));
      group = inside;
      lines.push(element("tr", {}, element("th", { scope: "row" }, `${name} `, element("small", {}, code)), rows.map((index) => {
        const cell = this.data.rows[index].cells[place];
        return cell ? element("td", { class: `q${step(cell[0])}`, title: `${one(cell[0])} [${one(cell[1])}, ${one(cell[2])}]` }, one(cell[0])) : element("td", { title: "not measured" }, "–");
      })));
    }
    const scale = element("div", { class: "scale", "aria-hidden": "true" }, "0", [...Array(9).keys()].map((k) => element("span", { class: `q${k}` })), one(top));
    return element("div", {}, element("div", { class: "scroll tall fit", tabindex: "0", role: "region", "aria-label": "Scores by language and method" },
      element("table", { class: "heat" }, element("thead", {}, head), element("tbody", {}, lines))), scale);
  }

  size(rows) {
    const encoders = [...new Set(rows.map((index) => this.data.rows[index]).filter((row) => row.pairs).map((row) => row.encoder))];
    if (!encoders.length) return [element("p", { class: "empty" }, "No distilled tower matches the filters.")];
    if (!encoders.includes(this.sizeEncoder)) this.sizeEncoder = encoders[0];
    const columns = this.columns(), series = new Map();
    for (const index of rows) {
      const row = this.data.rows[index], score = this.ranked(row), used = columns.map((place) => row.cells[place]?.[5]).filter(Boolean);
      if (row.encoder !== this.sizeEncoder || !score || !used.length) continue;
      const key = JSON.stringify([row.family, row.method, row.options, row.init]);
      if (!series.has(key)) series.set(key, { row, points: [] });
      series.get(key).points.push({ x: used.reduce((a, b) => a + b) / used.length, y: score });
    }
    const parts = [];
    if (encoders.length > 1) parts.push(element("div", { class: "controls" }, choice("Encoder", encoders.map((name) => [name, name]), this.sizeEncoder, (name) => { this.sizeEncoder = name; this.charts(); })));
    const drawn = [...series.values()].sort((a, b) => (a.row.family < b.row.family ? 1 : -1));
    if (!drawn.length) return [...parts, element("p", { class: "empty" }, "No row has all of these languages. Choose one language above.")];
    const many = new Set(drawn.map(({ row }) => row.init)).size > 1;
    for (const each of drawn) { each.points.sort((a, b) => a.x - b.x); each.name = [each.row.method, each.row.options, many && each.row.init].filter(Boolean).join(" · "); each.family = each.row.family; }
    takeTurns(drawn);
    const references = this.references(this.sizeEncoder);
    const figure = element("figure", {}, sizePlot(panelsOf(drawn, this.width()), this.width(), references, this.data.metric));
    const lines = drawn.flatMap((each) => each.points.map(({ x, y }) => element("tr", {}, element("th", { scope: "row" }, element("bdi", {}, each.name)), element("td", { class: "num" }, Math.round(x)), element("td", { class: "num" }, one(y[0])), element("td", { class: "num" }, one(y[1])), element("td", { class: "num" }, one(y[2])))));
    return [...parts, figure, legend(drawn), numbers(["Method", "Pairs", "Score", "Low", "High"], lines)];
  }

  references(encoder) {
    const scope = this.filters.scope, found = this.data.ceilings.find((each) => each.encoder === encoder), columns = this.columns();
    const score = !found ? 0 : scope === "" ? found.all : scope.startsWith("g:") ? found.groups[scope.slice(2)] : found.cells[this.places[scope]];
    return { ceiling: score ? score[0] : null, chance: columns.reduce((sum, place) => sum + this.data.columns[place][7], 0) / columns.length };
  }

  width() { return Math.min(920, this.section.clientWidth || 600); }

  forest(rows) {
    const kept = this.data.contrasts.map((contrast, index) => ({ contrast, index })).filter(({ contrast }) => rows.includes(contrast.a) && rows.includes(contrast.b));
    if (!kept.length) return [element("p", { class: "empty" }, "No transport row has a standard row that was trained alike.")];
    const members = kept.flatMap(({ contrast }) => [contrast.a, contrast.b]);
    const name = ({ contrast }) => `${this.short(this.data.rows[contrast.a], members)} − ${this.short(this.data.rows[contrast.b], members)}`;
    const chosen = kept.find(({ index }) => index === this.contrast) || kept[0], { contrast } = chosen;
    const picker = element("div", { class: "controls" }, choice("Difference", kept.map((each) => [String(each.index), name(each)]), String(chosen.index), (value) => { this.contrast = Number(value); this.charts(); }, "broad"));
    const lines = this.columns().filter((place) => contrast.gains[place]).map((place) => ({ label: this.data.columns[place][1], group: this.data.columns[place][2], gain: contrast.gains[place] }));
    if (!lines.length) return [picker, element("p", { class: "empty" }, "Not measured in this language.")];
    if (contrast.all && !this.filters.scope) lines.push({ label: "mean", group: "", gain: [...contrast.all, 2] });
    const table = lines.map(({ label, gain }) => element("tr", {}, element("th", { scope: "row" }, label), gain.slice(0, 3).map((value) => element("td", { class: "num" }, signed(value))), element("td", {}, gain[3] === 2 ? "" : gain[3] ? "significant" : "not significant")));
    return [picker, element("p", { class: "print-only" }, name(chosen)), element("div", { class: lines.length > 40 ? "scroll tall" : "", tabindex: lines.length > 40 ? "0" : null }, forestPlot(lines, Math.min(this.width() - 4, 760), name(chosen))),
      numbers(["Language", "Difference", "Low", "High", "All together"], table)];
  }
}

function start() {
  themeButton();
  const data = JSON.parse(document.getElementById("data").textContent);
  const boards = data.map((each) => new Leaderboard(document.getElementById(each.name), each)), links = [...document.querySelectorAll("nav a")];
  const choose = () => {
    const chosen = boards.find((board) => `#${board.data.name}` === location.hash) || boards[0];
    for (const board of boards) board.section.hidden = board !== chosen;
    for (const link of links) link.setAttribute("aria-current", String(link.getAttribute("href") === `#${chosen?.data.name}`));
    chosen?.show();
  };
  window.addEventListener("hashchange", choose);
  let timer = 0, width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => boards.forEach((board) => board.charts()), 100);
  });
  choose();
}
start();
