"use strict";
// Example images: search, order, sliders between two pictures, maps over them.

(() => {
  const block = document.getElementById("example-data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const control = (id) => document.getElementById(id);
  const chosen = (id, otherwise) => (control(id) ? control(id).value : otherwise);
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const values = floats(data.values), medians = floats(data.medians);
  const ranks = new Int32Array(Uint8Array.from(atob(data.ranks), (c) => c.charCodeAt(0)).buffer);
  const count = data.names.length, columns = data.columns.length;
  const list = document.querySelector(".examples");
  const figures = [...list.querySelectorAll(".example")];
  const several = data.labels.length > 1;
  const clear = (number) => (Math.abs(number) >= 100 ? number.toFixed(1) : number.toPrecision(4));

  // ---- order and search
  const place = (tokenizer, column, i) => (tokenizer * columns + column) * count + i;

  // The right and the left tokenizer where their difference is chosen; null if the left picture is the image.
  function differenceOf() {
    const left = Number(chosen("left", 0)) - 1, right = Number(chosen("right", 1)) - 1;
    return chosen("of") === "difference" && left >= 0 ? [right, left] : null;
  }

  function tokenizerOf() {
    return chosen("of", "0") === "difference" ? Number(chosen("right")) - 1 : Number(chosen("of", "0"));
  }

  function sortKeys() { // a number for each image, smallest first
    const order = chosen("order", "none"), column = Number(chosen("by", 0));
    if (order === "none") return data.names.map((_, i) => i);
    if (order === "name") {
      const sorted = data.names.map((_, i) => i).sort((a, b) => (data.names[a] < data.names[b] ? -1 : 1));
      const keys = [];
      sorted.forEach((image, rank) => (keys[image] = rank));
      return keys;
    }
    const sign = data.columns[column].better === "lower" ? 1 : -1; // smallest is the best
    const pair = differenceOf(), tokenizer = tokenizerOf();
    return data.names.map((_, i) => {
      const value = pair
        ? values[place(pair[0], column, i)] - values[place(pair[1], column, i)]
        : values[place(tokenizer, column, i)];
      const middle = pair ? 0 : medians[tokenizer * columns + column];
      const key = order === "median" ? Math.abs(value - middle) : sign * value * (order === "best" ? 1 : -1);
      return Number.isNaN(key) ? Infinity : key;
    });
  }

  function arrange() {
    const wanted = control("search").value.trim().toLowerCase();
    const keys = sortKeys(), onlyDrawn = chosen("show", "all") === "drawn";
    const sorted = data.names.map((_, i) => i).sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]));
    let found = 0;
    for (const i of sorted) {
      const shown = data.names[i].toLowerCase().includes(wanted) && (!onlyDrawn || i < data.drawn);
      figures[i].hidden = !shown;
      found += shown;
      list.append(figures[i]);
    }
    control("count").textContent = `${found.toLocaleString("en")} of ${count.toLocaleString("en")} shown`;
    mark();
  }

  function mark() { // the chosen metric beneath each picture, with the rank among all images
    const order = chosen("order", "none"), column = Number(chosen("by", 0));
    const ranked = !["none", "name"].includes(order);
    const { protocol, metric, unit, better } = data.columns[column] || {};
    const pair = differenceOf();
    figures.forEach((figure, i) => {
      figure.querySelectorAll("tr[data-column]").forEach((row) =>
        row.classList.toggle("chosen", ranked && Number(row.dataset.column) === column));
      const line = figure.querySelector(".rank");
      line.hidden = !ranked;
      if (!ranked) return;
      const name = `${protocol} ${metric.replaceAll("_", " ")}`, side = unit ? ` ${unit}` : "";
      if (pair) {
        const [own, other] = pair.map((t) => values[place(t, column, i)]);
        const difference = own - other;
        line.textContent = `${name}, ${data.labels[pair[0]]} minus ${data.labels[pair[1]]}: ` +
          `${difference < 0 ? "−" : "+"}${clear(Math.abs(difference))}${side}`;
        return;
      }
      const t = tokenizerOf(), value = values[place(t, column, i)];
      const rank = `rank ${ranks[place(t, column, i)].toLocaleString("en")} of ${data.images.toLocaleString("en")} ` +
        `from the ${better ? "best" : "highest"}`;
      line.textContent = `${name}${several ? ` of ${data.labels[t]}` : ""}: ` +
        (Number.isNaN(value) ? "none" : `${clear(value)}${side}, ${rank}`);
    });
  }

  // ---- sliders
  function setSplit(figure, percent) {
    const stage = figure.querySelector(".stage"), input = stage.querySelector("input");
    const value = Math.min(100, Math.max(0, percent));
    input.value = value;
    input.setAttribute("aria-valuetext", `${Math.round(value)} % ${input.dataset.left}, the rest ${input.dataset.right}`);
    stage.style.setProperty("--split", `${value}%`);
  }

  function addSlider(figure) {
    const stage = figure.querySelector(".stage");
    const input = document.createElement("input");
    input.type = "range";
    input.min = 0;
    input.max = 100;
    input.step = 1;
    const grip = document.createElement("span");
    grip.className = "grip";
    grip.ariaHidden = "true";
    const line = document.createElement("p");
    line.className = "code";
    stage.append(input, grip);
    stage.after(line);
    stage.style.setProperty("--x", `${stage.dataset.x}%`);
    stage.style.setProperty("--y", `${stage.dataset.y}%`);
    input.addEventListener("input", () => setSplit(figure, Number(input.value)));
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      setSplit(figure, (100 * (event.clientX - box.left)) / box.width);
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button || chosen("view") !== "slider") return;
      stage.setPointerCapture(event.pointerId);
      input.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (stage.hasPointerCapture(event.pointerId)) follow(event);
      tell(event, figure, line);
    });
    stage.addEventListener("pointerleave", () => (line.textContent = ""));
  }

  function tell(event, figure, line) { // the code under the pointer
    const canvas = [...figure.querySelectorAll("canvas")].find((own) => {
      const box = own.getBoundingClientRect();
      return box.width && event.clientX >= box.left && event.clientX < box.right && event.clientY >= box.top &&
        event.clientY < box.bottom;
    });
    if (!canvas || !canvas.map) return void (line.textContent = "");
    const box = canvas.getBoundingClientRect();
    const text = codeAt(canvas.map, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    line.textContent = several && text ? `${data.labels[canvas.tokenizer]}: ${text}` : text;
  }

  // ---- the two pictures and the maps over them
  function compare() {
    const slider = chosen("view", "slider") === "slider", over = chosen("over", "none");
    const left = chosen("left", "0"), right = chosen("right", "1");
    list.classList.toggle("sliders", slider);
    list.classList.toggle("zoomed", control("zoom").checked);
    list.classList.toggle("errors", over === "errors");
    list.dataset.over = over;
    document.querySelectorAll(".key").forEach((key) => (key.hidden = key.dataset.over !== over));
    figures.forEach((figure, i) => {
      const input = figure.querySelector("input");
      const names = ["image", ...data.labels];
      [input.dataset.left, input.dataset.right] = [names[left], names[right]];
      input.setAttribute("aria-label", `Divider between ${names[left]} and ${names[right]}: ${data.names[i]}`);
      setSplit(figure, Number(input.value));
      figure.querySelectorAll(".panel").forEach((panel) => {
        panel.classList.toggle("left", panel.dataset.panel === left);
        panel.classList.toggle("right", panel.dataset.panel === right);
        const tokenizer = Number(panel.dataset.panel) - 1;
        const drawn = over === "codes" || over === "granularity";
        const visible = tokenizer >= 0 && (!slider || panel.dataset.panel === left || panel.dataset.panel === right);
        overlay(figure, panel, i, tokenizer, drawn && visible ? over : null);
      });
    });
  }

  function overlay(figure, panel, i, tokenizer, kind) {
    figure.querySelectorAll("canvas").forEach((own) => own.tokenizer === tokenizer && own.remove());
    const own = kind && data.tokens[i][tokenizer];
    if (!own || (kind === "granularity" && !own.keep)) return;
    const map = tokenMap(own, Number(chosen("codebook", 0)), Number(chosen("scale", 0)));
    const canvas = document.createElement("canvas");
    canvas.map = map;
    canvas.tokenizer = tokenizer;
    canvas.role = "img";
    const different = new Set(map.codes.filter((_, at) => map.keep[at])).size;
    canvas.ariaLabel = `${kind} of ${data.labels[tokenizer]}: ${different} different codes in ${map.codes.length} positions`;
    drawMap(canvas, map, kind);
    if (map.sequence) {
      canvas.className = "sequence";
      figure.querySelector(".stage").after(canvas);
    } else {
      panel.querySelector(".frame").append(canvas);
    }
  }

  figures.forEach(addSlider);
  figures.forEach((figure) => setSplit(figure, 50));
  for (const id of ["order", "show"]) control(id).addEventListener("change", arrange);
  for (const id of ["by", "of"]) {
    control(id)?.addEventListener("change", () => {
      if (["none", "name"].includes(chosen("order"))) control("order").value = "worst";
      arrange();
    });
  }
  control("search").addEventListener("input", arrange);
  for (const id of ["view", "left", "right", "over", "codebook", "scale", "zoom"]) {
    control(id)?.addEventListener("change", () => {
      compare();
      if (chosen("of") === "difference") arrange();
    });
  }
  list.classList.add("live");
  document.querySelector(".controls").hidden = false;
  compare();
  arrange();
})();
