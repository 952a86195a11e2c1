const PAGE = 12;
// A rank of 0 means that no correct result was among the candidates.
const rankOf = (find) => find[0] || Infinity;
class Browser {
  constructor(data) {
    this.data = data;
    this.queries = data.parts.flatMap((part) => part.queries.map((query, number) => ({ part, query, number, text: `${query.text} ${query.english} ${part.images[query.image]}`.toLowerCase() })));
    this.filters = { text: "", lang: "", outcome: "", type: "", k: "1", order: "" };
    this.page = 0;
    const phrases = this.queries.every(({ query }) => query.finds.some((find) => find && find[3]));
    this.unit = phrases ? "phrases" : data.parts.every((part) => part.texts) ? "queries" : "captions";
    this.controls();
    document.getElementById("back").addEventListener("click", () => this.turn(-1));
    document.getElementById("on").addEventListener("click", () => this.turn(1));
    this.show();
  }

  controls() {
    const form = document.getElementById("controls"), names = this.data.towers.map(([name]) => name);
    form.addEventListener("submit", (event) => event.preventDefault());
    const set = (name) => (value) => { this.filters[name] = value; this.page = 0; this.show(); };
    const search = element("input", { type: "search", placeholder: "any word in a caption", autocomplete: "off", oninput: () => set("text")(search.value) });
    form.append(element("label", { class: "wide" }, "Search", search));
    if (this.data.parts.length > 1) form.append(choice("Language", [["", "All"], ...this.data.parts.map((part, place) => [String(place), `${part.name} (${part.lang})`])], "", set("lang")));
    const outcomes = [["", "Any"]];
    names.forEach((a, i) => names.forEach((b, j) => { if (i !== j) outcomes.push([`${i}>${j}`, `${a} correct, ${b} wrong`]); }));
    outcomes.push(["all", "every tower correct"], ["none", "every tower wrong"]);
    form.append(choice("Outcome", outcomes, "", set("outcome"), "broad"));
    form.append(choice("Correct if ranked in the first", [["1", "1"], ["5", "5"], ["10", "10"]], "1", set("k")));
    const types = [...new Set(this.queries.flatMap(({ query }) => query.types))].sort();
    if (types.length) form.append(choice("Entity type", [["", "Any"], ...types.map((type) => [type, type])], "", set("type")));
    const orders = [["", "Order of the data"], ...names.map((name, place) => [`w${place}`, `${name}: worst rank first`])];
    if (names.length > 1) orders.push(["gap", "Largest difference of ranks first"]);
    form.append(choice("Order", orders, "", set("order"), "broad"));
  }

  chosen() {
    const { text, lang, outcome, type, k, order } = this.filters, words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const right = (query, place) => (query.finds[place] ? rankOf(query.finds[place]) <= Number(k) : null);
    const fits = (query) => {
      if (outcome === "all" || outcome === "none") return query.finds.every((find) => !find || (rankOf(find) <= Number(k)) === (outcome === "all"));
      if (!outcome) return true;
      const [a, b] = outcome.split(">").map(Number);
      return right(query, a) === true && right(query, b) === false;
    };
    const part = lang === "" ? null : this.data.parts[Number(lang)];
    const found = this.queries.filter((each) => (!part || each.part === part) && words.every((word) => each.text.includes(word)) && (!type || each.query.types.includes(type)) && fits(each.query));
    const spread = ({ query }) => { const logs = query.finds.filter(Boolean).map((find) => Math.log(Math.min(rankOf(find), 1e9))); return Math.max(...logs) - Math.min(...logs); };
    if (order === "gap") return found.sort((a, b) => spread(b) - spread(a));
    if (order) { const place = Number(order.slice(1)), rank = ({ query }) => (query.finds[place] ? Math.min(rankOf(query.finds[place]), 1e9) : 0); return found.sort((a, b) => rank(b) - rank(a)); }
    return found;
  }

  turn(step) { this.page += step; this.show(); window.scrollTo(0, 0); }

  show() {
    const found = this.chosen(), pages = Math.max(1, Math.ceil(found.length / PAGE));
    document.getElementById("status").textContent = `${found.length.toLocaleString("en")} of ${this.queries.length.toLocaleString("en")} ${this.unit}`;
    document.getElementById("where").textContent = `page ${this.page + 1} of ${pages}`;
    document.getElementById("back").disabled = this.page === 0;
    document.getElementById("on").disabled = this.page + 1 >= pages;
    document.getElementById("queries").replaceChildren(...found.slice(this.page * PAGE, (this.page + 1) * PAGE).map((each) => this.card(each)));
  }

  picture(part, image, right, note) {
    const name = part.images[image];
    return element("figure", { class: right ? "picture right" : "picture" }, element("img", { src: part.thumbnails[image], alt: `picture ${name}${right ? ", correct" : ""}`, loading: "lazy", title: name }), element("figcaption", {}, note));
  }

  // A picture with boxes over it. boxes: pairs of a box, in fractions of width and height, and the number of its color.
  drawn(part, query, boxes) {
    // The first of several equal boxes has the widest line, so that every line stays visible.
    const wide = boxes.map(([box], at) => 2.5 + 3 * boxes.slice(at + 1).filter(([other]) => String(other) === String(box)).length);
    const frame = ([left, top, right, bottom], style, width) => shape("rect", { x: left, y: top, width: right - left, height: bottom - top, class: style, "stroke-width": width });
    const lines = [...boxes.map(([box], at) => frame(box, "halo", wide[at] + 2.5)), ...boxes.map(([box, colour], at) => frame(box, `colour-${colour}`, wide[at]))];
    const name = part.images[query.image];
    return element("figure", { class: "drawn" }, element("div", {}, element("img", { src: part.thumbnails[query.image], alt: `picture ${name}`, loading: "lazy", title: name }), shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" }, ...lines)), element("figcaption", {}, name));
  }

  // The best texts of text-to-text retrieval, best first.
  texts(first, right) {
    return element("ol", { class: "texts" }, first.map((text, at) => element("li", { class: right[at] ? "right" : "" }, element("bdi", { lang: "en", dir: "auto" }, text), right[at] ? " ✓" : "")));
  }

  patch(colour) { return element("span", { class: `patch colour-${colour}` }); }

  verdict(find) {
    const rank = find[0] ? `rank ${find[0].toLocaleString("en")}` : find[3] ? "not among the candidates" : "not among the first 1,000";
    return element("span", { class: find[0] === 1 ? "hit" : "miss" }, rank);
  }

  card({ part, query }) {
    const grounding = query.finds.some((find) => find && find[3]), drawn = query.places.some(([, , boxes]) => boxes.length);
    const rows = query.finds.map((find, place) => {
      if (!find) return null;
      const [, first, scores, box] = find, who = element("strong", {}, element("bdi", {}, this.data.towers[place][0]));
      if (box) return element("div", { class: "found" }, element("div", {}, this.patch(1 + place % 5), " ", who, " ", this.verdict(find)));
      return element("div", { class: "found" }, element("div", { class: "who" }, who, this.verdict(find)),
        part.texts ? this.texts(first, scores) : element("div", { class: "strip" }, first.map((image, at) => this.picture(part, image, image === query.image, scores[at].toFixed(3)))));
    });
    const commands = this.data.towers.filter(([, digests], place) => query.finds[place] && digests[part.lang] && query.english).map(([name, digests]) => {
      const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
      const command = `python -m harness transport --tower ${digests[part.lang]} --english ${quote(query.english)} --foreign ${quote(query.text)} --out transport.html`;
      return element("p", {}, element("bdi", {}, name), " ", copyButton(command), element("pre", {}, command));
    });
    // In phrase grounding, the first color is the true box and the others are the towers'. Otherwise each phrase has a color.
    const truth = query.places.flatMap(([, , boxes], at) => boxes.map((box) => [box, grounding ? 0 : at % 6]));
    const found = query.finds.flatMap((find, place) => (find && find[3] ? [[find[3], 1 + place % 5]] : []));
    const phrases = query.places.map(([words, types, boxes], at) => element("li", {}, boxes.length ? this.patch(grounding ? 0 : at % 6) : null, " ", grounding ? "true box" : element("bdi", { dir: "auto" }, words), element("span", { class: "soft" }, boxes.length ? ` ${types.join(", ")}` : ` ${types.join(", ")}, no box`)));
    return element("article", { class: "query" },
      element("div", { class: "asked" }, drawn ? this.drawn(part, query, [...truth, ...found]) : part.texts ? null : this.picture(part, query.image, true, part.images[query.image]),
        element("div", {}, element("p", { class: "caption" }, element("bdi", { lang: part.lang, dir: "auto" }, query.text)),
          query.english ? element("p", { class: "soft" }, element("bdi", { lang: "en", dir: "auto" }, query.english)) : null,
          element("p", { class: "soft" }, [`${part.name} · ${part.source}`, ...query.types].join(" · ")),
          phrases.length ? element("ul", { class: "places" }, phrases) : null,
          grounding ? rows : null,
          commands.length ? element("details", { class: "plain" }, element("summary", {}, "Commands of the transport viewer"), commands) : null)),
      grounding ? null : rows);
  }
}
themeButton();
new Browser(JSON.parse(document.getElementById("data").textContent));
