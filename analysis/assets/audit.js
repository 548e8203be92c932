"use strict";
// The review of doubted labels: a list of which only what is in view exists, and decisions about it. Reads the JSON in #data, asks no network.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const list = at("list"), room = at("room"), filters = ["annotated", "suggested", "state"].map(at), other = at("other");
  const HEIGHT = 118, WIDTH = 168, GAP = 6;
  const count = data.rows.length, annotated = (item) => data.labels[data.rows[item]];
  const decided = new Map(), sheets = [], verified = new Set(data.verified);
  let shown = [], place = 0, columns = 1;

  function make(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // What was decided stays, where the browser lets a page remember; where it does not, the CSV is all there is.
  const STORE = `doubted labels ${data.id}`;
  try {
    for (const [item, label] of JSON.parse(localStorage.getItem(STORE) || "[]")) decided.set(item, label);
  } catch { /* nothing is remembered */ }
  function remember() {
    try {
      localStorage.setItem(STORE, JSON.stringify([...decided]));
    } catch { /* nothing is remembered */ }
  }

  function picture(node, item, size) {
    const number = Math.floor(item / data.sheet), within = item % data.sheet, scale = size / data.side;
    if (!sheets[number]) {
      const bytes = Uint8Array.from(atob(data.sheets[number]), (letter) => letter.charCodeAt(0));
      sheets[number] = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    }
    const step = data.cell * scale, row = Math.floor(within / data.columns);
    node.style.backgroundImage = `url(${sheets[number]})`;
    node.style.backgroundSize = `${data.columns * step}px auto`;
    node.style.backgroundPosition = `${-(within % data.columns) * step}px ${-row * step}px`;
    node.classList.toggle("pixels", scale > 2);
  }
  /** Return the lines of a label over the epochs; nothing where none was recorded. */
  function history(item) {
    const line = data.lines[item] || "", points = line.length / 2;
    if (!points) return [];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({ class: "history", viewBox: "0 0 100 64", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(key, value);
    ["own", "other"].forEach((name, index) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const heights = [...line.slice(index * points, (index + 1) * points)].map((letter) => data.levels.length - 1 - data.levels.indexOf(letter));
      path.setAttribute("class", name);
      path.setAttribute("d", heights.map((y, x) => `${x ? "L" : "M"}${((100 * x) / Math.max(1, points - 1)).toFixed(1)} ${y}`).join(""));
      svg.append(path);
    });
    return [svg];
  }
  function fate(item) {
    if (!decided.has(item)) return data.changed[item] ? "by rule" : "";
    return decided.get(item) === annotated(item) ? "kept" : `now ${data.classes[decided.get(item)]}`;
  }

  const STATES = {
    "all": () => true,
    "undecided": (item) => !decided.has(item),
    "kept": (item) => decided.get(item) === annotated(item),
    "rejected": (item) => decided.has(item) && decided.get(item) !== annotated(item),
    "changed by the rule": (item) => data.changed[item],
  };
  function choose(keep) {
    const [own, others, state] = filters.map((one) => one.value), within = STATES[state];
    shown = [];
    for (let item = 0; item < count; item++) {
      if ((own === "" || annotated(item) === Number(own)) && (others === "" || data.suggested[item] === Number(others)) && within(item)) shown.push(item);
    }
    place = Math.max(0, shown.indexOf(keep));
    layOut();
  }
  function layOut() {
    columns = Math.max(1, Math.floor(list.clientWidth / WIDTH));
    room.style.height = `${Math.ceil(shown.length / columns) * HEIGHT}px`;
    reveal();
  }
  function reveal() {
    const top = Math.floor(place / columns) * HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    render();
    detail();
  }
  /** Draw the cards that are in view, and no other. */
  function render() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 1) * columns;
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT + 1) * columns);
    const width = list.clientWidth / columns, cards = [];
    for (let index = first; index < last; index++) {
      const item = shown[index], small = make("div", { class: "small" }), said = fate(item);
      picture(small, item, 64);
      const card = make("div", { class: "card", role: "option", id: `card${index}`, "aria-selected": index === place, "aria-posinset": index + 1, "aria-setsize": shown.length }, small,
        make("div", {}, make("p", {}, `${item + 1}`), make("p", {}, data.classes[annotated(item)]), make("p", {}, `→ ${data.classes[data.suggested[item]]}`), ...history(item), make("p", { class: "fate" }, said)));
      if (decided.has(item)) card.classList.add(decided.get(item) === annotated(item) ? "kept" : "rejected");
      card.style.cssText += `left:${(index % columns) * width + GAP / 2}px;top:${Math.floor(index / columns) * HEIGHT + GAP / 2}px;width:${width - GAP}px;height:${HEIGHT - GAP}px`;
      card.addEventListener("click", () => { place = index; reveal(); });
      cards.push(card);
    }
    room.replaceChildren(...cards);
  }
  function detail() {
    const item = shown[place], none = item === undefined, percent = (value) => `${(100 * value).toFixed(1)}%`;
    list.setAttribute("aria-activedescendant", none ? "" : `card${place}`);
    document.querySelector(".detail").style.visibility = none ? "hidden" : "visible";
    const kept = [...decided].filter(([one, label]) => label === annotated(one)).length;
    at("about").textContent = `${shown.length} of ${count} images shown; ${kept} kept, ${decided.size - kept} rejected.`;
    if (none) return;
    picture(at("picture"), item, at("picture").clientWidth);
    at("name").textContent = data.key === "file" ? data.names[data.rows[item]] : `Position ${data.names[data.rows[item]]}`;
    at("classes").textContent = `${data.classes[annotated(item)]} → ${data.classes[data.suggested[item]]}?`;
    const doubt = `Number ${item + 1} of ${data.trained_on}`, agreed = data.agreement[item] < 1 ? `, ${percent(data.agreement[item])} of the runs agree` : "";
    const truth = data.true ? ` In truth: ${data.classes[data.true[item]]}.` : "";
    const said = !decided.has(item) && data.changed[item] ? "the rule agrees" : fate(item);
    at("numbers").textContent = `${doubt}. Probability ${percent(data.own[item])} annotated, ${percent(data.other[item])} suggested${agreed}.${truth}${said && ` ${said[0].toUpperCase()}${said.slice(1)}.`}`;
    at("trajectory").replaceChildren(...history(item));
    at("keep").querySelector("span").textContent = data.classes[annotated(item)];
    at("reject").querySelector("span").textContent = data.classes[data.suggested[item]];
    at("undo").disabled = !decided.has(item);
    other.value = "";
  }

  function decide(label) {
    const item = shown[place];
    if (item === undefined) return;
    if (label === null) decided.delete(item);
    else decided.set(item, label);
    remember();
    if (STATES[filters[2].value](item)) {
      if (label !== null && place < shown.length - 1) place++;
    } else {
      shown.splice(place, 1);
      place = Math.min(place, Math.max(0, shown.length - 1));
      room.style.height = `${Math.ceil(shown.length / columns) * HEIGHT}px`;
    }
    reveal();
  }
  function save() {
    const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    const labels = [...data.labels];
    for (const [item, label] of decided) {
      labels[data.rows[item]] = label;
      verified.add(data.rows[item]);
    }
    const files = data.key === "file", head = [data.key, "label", ...(files ? ["split"] : []), "verified"];
    const lines = data.names.map((name, row) =>
      [name, data.classes[labels[row]], ...(files ? [row < data.trained ? "train" : "test"] : []), verified.has(row)].map(cell).join(","));
    const link = make("a", { href: URL.createObjectURL(new Blob([[head.join(","), ...lines, ""].join("\n")], { type: "text/csv" })), download: "reviewed_labels.csv" });
    link.click();
  }

  const moves = {
    ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns, Home: () => -place, End: () => shown.length,
    PageUp: () => -columns * Math.floor(list.clientHeight / HEIGHT), PageDown: () => columns * Math.floor(list.clientHeight / HEIGHT),
  };
  const decisions = { k: () => annotated(shown[place]), r: () => data.suggested[shown[place]], u: () => null };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "SELECT") return;
    const key = event.key.toLowerCase();
    if (event.key in moves && shown.length && (event.target === list || event.target === document.body)) {
      place = Math.min(shown.length - 1, Math.max(0, place + moves[event.key]()));
      reveal();
    } else if (key in decisions && shown.length) decide(decisions[key]());
    else return;
    event.preventDefault();
  });
  at("keep").addEventListener("click", () => decide(decisions.k()));
  at("reject").addEventListener("click", () => decide(decisions.r()));
  at("undo").addEventListener("click", () => decide(null));
  other.addEventListener("change", () => { if (other.value !== "") decide(Number(other.value)); });
  filters.forEach((one) => one.addEventListener("change", () => choose(shown[place])));
  at("save").addEventListener("click", save);
  list.addEventListener("scroll", render);

  const classes = data.classes.map((name, number) => [number, name]);
  const fill = (node, options) => node.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  fill(filters[0], [["", "any class"], ...classes]);
  fill(filters[1], [["", "any class"], ...classes]);
  fill(filters[2], Object.keys(STATES).map((name) => [name, name]));
  fill(other, [["", "Another class …"], ...classes]);
  at("review").hidden = false;
  choose(0);
  let width = list.clientWidth;
  new ResizeObserver(() => {
    if (list.clientWidth !== width) {
      width = list.clientWidth;
      layOut();
    }
  }).observe(list);
})();
