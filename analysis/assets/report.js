"use strict";
// The label browser: one run, one class or training image of it, its label over the epochs. Reads the JSON in #data, asks no network.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.runs.length) return;
  const at = (id) => document.getElementById(id);
  const browser = at("browser"), runChoice = at("run"), filter = at("filter"), itemChoice = at("item"), slider = at("epoch"), play = at("play"), fit = at("fit");
  // Lines differ in their dashes too: for print in gray, and where two coincide.
  const DASHES = ["", "8 3", "2 3", "10 3 2 3", "5 2 5 6", "1 5"];
  const PASS_MS = 12000, SLOWEST_MS = 400, FASTEST_MS = 40;
  const HEIGHT = 270, LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 40;
  let run, item, series, others, epoch = 0, timer = 0;

  function make(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function draw(name, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /** Return values[epoch][column] of an item; NaN where the run had diverged. */
  const valuesOf = (of) => of.values.map((row) => row.map((stored) => stored ?? NaN));
  const className = (number) => (run.names.length ? run.names[number] : `class ${number}`);
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const isClass = () => run.kind === "class";
  const own = (of) => valuesOf(of).map((row) => row[0]);
  const percent = (value) => (Number.isNaN(value) ? "NaN" : (100 * value).toFixed(2) + "%");

  /** Return the lines of the present item: name, colour, dashes, value at each epoch. */
  function lines() {
    if (isClass()) {
      const values = own(item), rest = run.num_classes - 1;
      const found = [{ name: className(item.position), color: "var(--c0)", dash: "", values }];
      if (rest > 0) {
        found.push({ name: `each other (${rest})`, color: "var(--c1)", dash: DASHES[1], values: values.map((value) => (1 - value) / rest) });
      }
      return found;
    }
    const rows = valuesOf(item);
    const found = item.classes.map((number, column) => ({
      name: className(number), color: `var(--c${column % 6})`, dash: DASHES[column % DASHES.length], values: rows.map((row) => row[column]),
    }));
    const rest = run.num_classes - item.classes.length;
    if (rest > 0) {
      const sums = rows.map((row) => Math.max(0, 1 - row.reduce((sum, value) => sum + value, 0)));
      found.push({ name: `other ${rest}, sum`, color: "var(--rest)", dash: "4 4", values: sums });
    }
    return found;
  }

  /** List each run under every table and figure that it stands in, with its label there. */
  function fillRuns() {
    for (const page of new Set(data.runs.flatMap((one) => one.places.map((place) => place.page)))) {
      const options = data.runs.flatMap((one, index) => one.places.filter((place) => place.page === page).map((place) =>
        make("option", { value: index }, `${place.title}: ${one.kind} labels, ${one.dataset}`)));
      if (options.length) runChoice.append(make("optgroup", { label: page }, ...options));
    }
  }

  function chooseRun() {
    // What was looked at stays, as far as this run has it: the epoch, the filter, the class or image.
    const before = run && { at: run.epochs[epoch], filter: filter.value, kind: run.kind, dataset: run.dataset, position: item.position };
    run = data.runs[Number(runChoice.value)];
    at("item-label").textContent = isClass() ? "Class" : "Training image";
    at("filter-box").hidden = isClass();
    const classes = isClass() ? [] : [...new Set(run.items.map((one) => one.begins))].sort((a, b) => a - b);
    const option = (value, text) => make("option", { value, ...(chosen(value).length ? {} : { disabled: "" }) }, `${text} (${chosen(value).length})`);
    filter.replaceChildren(option("all", "All that are listed"), ...Object.keys(OUTCOMES).map((outcome) => option(outcome, outcome)),
      make("optgroup", { label: run.names.length ? "Annotated as" : "Most probable class at first" },
        ...classes.map((number) => option(`class ${number}`, capital(className(number))))));
    slider.max = run.epochs.length - 1;
    at("places").replaceChildren(...run.places.map((place) => make("li", {}, `${place.page}: ${place.title}`)));
    const when = isClass() ? "after the last step of each epoch. Thin lines: the other classes, each its own probability" : `${run.when} the update at its visit in each epoch`;
    at("about").replaceChildren("Run ", make("a", { href: `${at("data").dataset.runs}/${encodeURIComponent(run.id)}/` }, make("code", {}, run.id)),
      ` on ${run.dataset}, ${run.num_classes} classes, ${run.epochs.length} of ${run.planned} epochs shown; labels ${when}.`);
    filter.value = "all";
    if (before) {
      const later = run.epochs.findIndex((number) => number >= before.at);
      epoch = later < 0 ? run.epochs.length - 1 : later;
      filter.value = [...filter.options].find((option) => option.value === before.filter && !option.disabled)?.value ?? "all";
    }
    chooseFilter(before && before.kind === run.kind && before.dataset === run.dataset ? before.position : undefined);
  }
  /** What became of a label; where the true class is known, else only whether it moved. */
  const OUTCOMES = {
    "Most probable class changed": (one) => one.begins !== one.ends,
    "Repaired": (one) => one.true !== undefined && one.begins !== one.true && one.ends === one.true,
    "Spoilt": (one) => one.begins === one.true && one.ends !== one.true,
    "Still wrong": (one) => one.true !== undefined && one.begins !== one.true && one.ends !== one.true,
  };
  /** Return the places of the items that a filter lets through. */
  function chosen(value) {
    const passes = OUTCOMES[value] ?? ((one) => value === "all" || `class ${one.begins}` === value);
    return run.items.flatMap((one, index) => (passes(one) ? [index] : []));
  }
  /** List the items of the chosen filter, and show the one at that position of the dataset, else the first. */
  function chooseFilter(position) {
    const places = chosen(filter.value);
    itemChoice.replaceChildren(...places.map((index) => make("option", { value: index }, listed(run.items[index]))));
    itemChoice.value = places.find((index) => run.items[index].position === position) ?? places[0];
    chooseItem();
  }
  function name(of) {
    return isClass() ? capital(className(of.position)) : `Image ${of.position}`;
  }
  /** Return a training image as the list has it, such as "1433: 9 → 4": annotated class, most probable class in the end. */
  function listed(of) {
    if (isClass()) return name(of);
    const short = (number) => className(number).replace(/^class /, "");
    const diverged = of.values.at(-1).includes(null);
    const text = `${of.position}: ${short(of.begins)} → ${diverged ? "NaN" : short(of.ends)}`;
    return of.true === undefined || diverged || of.true === of.ends ? text : `${text}, is ${short(of.true)}`;
  }

  function chooseItem() {
    item = run.items[Number(itemChoice.value)];
    series = lines();
    others = isClass() ? run.items.filter((one) => one !== item).map(own) : [];
    const image = at("image"), has = item.image !== undefined;
    image.hidden = !has;
    if (has) image.src = `data:image/png;base64,${item.image}`;
    else image.removeAttribute("src");
    image.alt = has ? `Training image ${isClass() ? item.example : item.position}` : "";
    at("picture").hidden = isClass() && !has;
    at("caption").textContent = isClass() ? `Training image ${item.example}, the first of ${className(item.position)} that the run trained on.` : story(has);
    at("bars").replaceChildren(...series.map((line) => make("li", {}, swatch(line), make("span", {}, line.name),
      make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "fill", style: `background:${line.color}` })),
      make("span", { class: "value" }))));
    drawChart();
  }
  /** Return what happened to the label of a training image, in words. */
  function story(has) {
    const best = (row) => series.slice(0, item.classes.length).reduce((top, line) => (line.values[row] > top.values[row] ? line : top)).name;
    const known = item.true === undefined ? "" :
      item.begins === item.true ? ` Annotated as ${className(item.true)}, which is right.` :
        ` Annotated as ${className(item.begins)}, but it is ${className(item.true)}.`;
    return `Image ${item.position} of the published training set.${known} Most probable at first: ${best(0)}; in the end: ` +
      `${best(run.epochs.length - 1)}.` + (has ? "" : " Its pixels are not in this page.");
  }
  function swatch(line) {
    return draw("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" },
      draw("line", { x1: 0, x2: 30, y1: 6, y2: 6, style: `stroke:${line.color}`, "stroke-width": 3, "stroke-dasharray": line.dash }));
  }

  let scale = null;
  function drawChart() {
    const width = Math.max(260, at("chart").clientWidth), last = run.epochs.length - 1;
    const shown = series.flatMap((line) => line.values).concat(others.flat()).filter((value) => !Number.isNaN(value));
    let low = 0, high = 1;
    if (fit.checked && shown.length) {
      const least = shown.reduce((a, b) => Math.min(a, b)), most = shown.reduce((a, b) => Math.max(a, b));
      const room = Math.max(0.0005, 0.05 * (most - least));
      [low, high] = [Math.max(0, least - room), Math.min(1, most + room)];
    }
    const first = run.epochs[0], span = run.epochs[last] - first;
    const place = (number) => LEFT + (span ? (number - first) / span : 0.5) * (width - LEFT - RIGHT);
    const x = (index) => place(run.epochs[index]);
    const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `Probabilities of ${name(item)} over the epochs` });
    const digits = high - low > 0.5 ? 1 : high - low > 0.05 ? 2 : 4;
    for (let tick = 0; tick <= 5; tick++) {
      const value = low + (tick / 5) * (high - low);
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
    }
    for (const tick of ticks(first, run.epochs[last], Math.floor(width / 60))) {
      svg.append(draw("line", { class: "grid", x1: place(tick), x2: place(tick), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }),
        draw("text", { x: place(tick), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, String(tick)));
    }
    svg.append(draw("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "Epoch"));
    for (const values of others) svg.append(draw("path", { class: "other", d: path(values, x, y) }));
    for (const line of [...series].reverse()) {
      svg.append(draw("path", { class: "line", d: path(line.values, x, y), style: `stroke:${line.color}`, "stroke-dasharray": line.dash }));
    }
    const cursor = draw("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
    const dots = series.map((line) => draw("circle", { r: 4, style: `fill:${line.color}` }));
    svg.append(cursor, ...dots);
    at("chart").replaceChildren(svg);
    scale = { x, y, cursor, dots, svg, width };
    showEpoch();
  }
  /** Return round epoch numbers, at most so many, from the first to the last. */
  function ticks(first, last, most) {
    let step = 1;
    for (let next = 0; (last - first) / step + 1 > most; next++) step = [2, 5, 10][next % 3] * 10 ** Math.floor(next / 3);
    const found = [];
    for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) found.push(tick);
    return found;
  }
  /** Return the path of a line, with a gap wherever a value is NaN; a single point is a dot. */
  function path(values, x, y) {
    let text = "", open = false;
    values.forEach((value, index) => {
      if (!Number.isNaN(value)) text += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      open = !Number.isNaN(value);
    });
    return text;
  }

  function showEpoch() {
    slider.value = epoch;
    const text = `Epoch ${run.epochs[epoch]} of ${run.epochs[run.epochs.length - 1]}`;
    slider.setAttribute("aria-valuetext", text);
    at("now").textContent = text;
    scale.cursor.setAttribute("x1", scale.x(epoch));
    scale.cursor.setAttribute("x2", scale.x(epoch));
    [...at("bars").children].forEach((bar, index) => {
      const value = series[index].values[epoch], gone = Number.isNaN(value);
      bar.querySelector(".fill").style.width = gone ? "0" : `${100 * value}%`;
      bar.querySelector(".value").textContent = percent(value);
      scale.dots[index].setAttribute("visibility", gone ? "hidden" : "visible");
      if (!gone) {
        scale.dots[index].setAttribute("cx", scale.x(epoch));
        scale.dots[index].setAttribute("cy", scale.y(value));
      }
    });
    // While it plays, a screen reader would never come to an end.
    if (!timer) at("live").textContent = `${name(item)}, ${text}: ${series.map((line) => `${line.name} ${percent(line.values[epoch])}`).join(", ")}.`;
  }
  function setEpoch(value) {
    epoch = Math.min(run.epochs.length - 1, Math.max(0, value));
    showEpoch();
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ Play";
    play.setAttribute("aria-pressed", "false");
    showEpoch();
  }
  function start() {
    if (epoch === run.epochs.length - 1) setEpoch(0);
    const pause = Math.min(SLOWEST_MS, Math.max(FASTEST_MS, PASS_MS / run.epochs.length));
    timer = setInterval(() => (epoch < run.epochs.length - 1 ? setEpoch(epoch + 1) : stop()), pause);
    play.textContent = "❚❚ Pause";
    play.setAttribute("aria-pressed", "true");
  }
  function byHand(value) {
    if (timer) stop();
    setEpoch(value);
  }

  const KEYS = { ArrowLeft: () => epoch - 1, ArrowRight: () => epoch + 1, Home: () => 0, End: () => run.epochs.length - 1 };
  browser.addEventListener("keydown", (event) => {
    // Lists and the slider know these keys themselves.
    if (event.target.tagName === "SELECT" || event.target === slider) return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !(event.key in KEYS)) return;
    event.preventDefault();
    byHand(KEYS[event.key]());
  });
  runChoice.addEventListener("change", () => { if (timer) stop(); chooseRun(); });
  filter.addEventListener("change", () => { if (timer) stop(); chooseFilter(item.position); });
  itemChoice.addEventListener("change", () => { if (timer) stop(); chooseItem(); });
  slider.addEventListener("input", () => byHand(Number(slider.value)));
  fit.addEventListener("change", drawChart);
  at("back").addEventListener("click", () => byHand(epoch - 1));
  at("forward").addEventListener("click", () => byHand(epoch + 1));
  play.addEventListener("click", () => (timer ? stop() : start()));
  function point(event) {
    const box = scale.svg.getBoundingClientRect(), place = ((event.clientX - box.left) * scale.width) / box.width;
    let nearest = 0;
    for (let index = 1; index < run.epochs.length; index++) {
      if (Math.abs(scale.x(index) - place) < Math.abs(scale.x(nearest) - place)) nearest = index;
    }
    byHand(nearest);
  }
  at("chart").addEventListener("pointerdown", point);
  at("chart").addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });

  browser.hidden = false;
  fillRuns();
  chooseRun();
  let width = at("chart").clientWidth;
  new ResizeObserver(() => {
    if (at("chart").clientWidth !== width) {
      width = at("chart").clientWidth;
      drawChart();
    }
  }).observe(at("chart"));
})();
