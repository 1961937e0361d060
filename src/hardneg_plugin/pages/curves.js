// Training curves: small SVG charts whose values can be read by pointer, by keys and as tables.

const dashes = ["", "7 3", "2 2.5", "9 3 2 3", "5 2", "1 2", "12 4", "9 2 2 2 2 2"];
const box = { width: 360, height: 190, left: 46, right: 10, top: 10, bottom: 24 };

// The order of the charts; all others come last.
const kinds = [/loss/, /\/hardness$/, /(negative|hardened)_similarity$/, /false_negative/, /^val\//, /(?:)/];

// Curves that belong on one chart: the negative similarity before and after hardening, a loss of training and validation.
function chartOf(name) {
  if (/(negative|hardened)_similarity$/.test(name)) return "negative similarity, before and after hardening";
  return name.includes("loss") ? name.replace(/^(train|val)\//, "") : name;
}

const shown = (name) =>
  name.endsWith("negative_similarity") ? "before" : name.endsWith("hardened_similarity") ? "after hardening" : name.split("/")[0];

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

const short = (value) =>
  Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4)));

// The range of some values; widened where they are all equal.
function rangeOf(values) {
  const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
}

function tableOf(title, series) {
  const steps = [...new Set(series.flatMap((one) => one.points.map(([step]) => step)))].sort((a, b) => a - b);
  const values = series.map((one) => new Map(one.points));
  const head = element("tr", {}, element("th", { scope: "col" }, "step"), ...series.map((one) => element("th", { scope: "col" }, one.label)));
  const rows = steps.map((step) =>
    element("tr", {}, element("th", { scope: "row" }, String(step)), ...values.map((of) => element("td", {}, of.has(step) && of.get(step) !== null ? short(of.get(step)) : "–"))),
  );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, values` },
    element("table", {}, element("caption", { class: "unseen" }, title), element("thead", {}, head), element("tbody", {}, ...rows)),
  );
}

function chart(title, curves, variants) {
  const names = [...new Set(curves.map((curve) => curve.name))];
  const series = curves.map((curve) => {
    const number = variants.indexOf(curve.variant);
    const label = [variants.length > 1 && curve.variant, names.length > 1 && shown(curve.name)].filter(Boolean).join(", ");
    const dash = dashes[(number * names.length + names.indexOf(curve.name)) % dashes.length];
    return { label: label || curve.variant, dash, tint: `v${number % 8}`, points: curve.points, known: curve.points.filter(([, value]) => value !== null) };
  });
  const known = series.flatMap((one) => one.known);
  const frame = element("figure", { class: "chart" }, element("figcaption", {}, title));
  if (!known.length) {
    frame.append(element("p", { class: "empty" }, "No values were logged."));
    return frame;
  }
  const [firstStep, lastStep] = rangeOf(known.map(([step]) => step));
  const [low, high] = rangeOf(known.map(([, value]) => value));
  const x = (step) => box.left + ((step - firstStep) / (lastStep - firstStep)) * (box.width - box.left - box.right);
  const y = (value) => box.height - box.bottom - ((value - low) / (high - low)) * (box.height - box.top - box.bottom);
  const svg = element("svg", { viewBox: `0 0 ${box.width} ${box.height}`, tabindex: "0", role: "img", "aria-label": `${title}: use ← and → to read the values` });
  for (const value of ticks(low, high, 4)) {
    svg.append(element("line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { class: "tick", x: box.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, short(value)));
  }
  for (const step of ticks(firstStep, lastStep, 5).filter(Number.isInteger)) {
    svg.append(element("text", { class: "tick", x: x(step), y: box.height - 8, "text-anchor": "middle" }, short(step)));
  }
  for (const one of series) {
    let pen = "M"; // lifted where a value is missing
    const path = one.points.map(([step, value]) => {
      const part = value === null ? "" : `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = value === null ? "M" : "L";
      return part;
    });
    svg.append(element("path", { class: `line ${one.tint}`, d: path.join(""), "stroke-dasharray": one.dash }));
    if (one.known.length === 1) svg.append(element("circle", { class: `dot ${one.tint}`, cx: x(one.known[0][0]), cy: y(one.known[0][1]), r: 3 }));
  }
  const cursor = element("g", { class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  const step = element("b");
  const readout = element("p", { class: "readout" }, step);
  const entries = series.map((one) => {
    const sample = element("svg", { viewBox: "0 0 26 6", width: 26, height: 6, "aria-hidden": true }, element("path", { class: `line ${one.tint}`, d: "M0 3H26", "stroke-dasharray": one.dash }));
    const value = element("output");
    readout.append(element("span", { class: "entry" }, sample, one.label, " ", value));
    return value;
  });
  const steps = [...new Set(known.map(([at]) => at))].sort((a, b) => a - b);
  let at = null;
  const nearest = (points, to) => points.reduce((best, point) => (Math.abs(point[0] - to) < Math.abs(best[0] - to) ? point : best));
  const read = (index) => {
    at = index;
    cursor.setAttribute("visibility", index === null ? "hidden" : "visible");
    step.textContent = index === null ? "" : `step ${steps[index]}`;
    cursor.replaceChildren();
    if (index !== null) cursor.append(element("line", { x1: x(steps[index]), x2: x(steps[index]), y1: box.top, y2: box.height - box.bottom }));
    series.forEach((one, place) => {
      if (index === null || !one.known.length) return (entries[place].textContent = "");
      const [where, value] = nearest(one.known, steps[index]);
      cursor.append(element("circle", { class: `dot ${one.tint}`, cx: x(where), cy: y(value), r: 3 }));
      entries[place].textContent = short(value);
    });
  };
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const under = ((event.clientX - bounds.left) / bounds.width) * box.width;
    read(steps.indexOf(nearest(steps.map((one) => [one]), firstStep + ((under - box.left) / (box.width - box.left - box.right)) * (lastStep - firstStep))[0]));
  });
  svg.addEventListener("pointerleave", () => read(null));
  svg.addEventListener("blur", () => read(null));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
    if (move) {
      event.preventDefault();
      read(Math.max(0, Math.min(steps.length - 1, at === null ? (move > 0 ? 0 : steps.length - 1) : at + move)));
    } else if (event.key === "Escape") read(null);
  });
  const values = element("details", {}, element("summary", {}, "Values"));
  values.addEventListener("toggle", () => values.children.length === 1 && values.append(tableOf(title, series)));
  frame.append(svg, readout, values);
  return frame;
}

function drawCurves(place, curves, variants) {
  const kindOf = (name) => kinds.findIndex((kind) => kind.test(name));
  const charts = new Map();
  for (const curve of [...curves].sort((a, b) => kindOf(a.name) - kindOf(b.name))) {
    const title = chartOf(curve.name);
    charts.set(title, [...(charts.get(title) ?? []), curve]);
  }
  place.append(...[...charts].map(([title, of]) => chart(title, of, variants)));
}
