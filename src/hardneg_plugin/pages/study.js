// One study: its images, the generated reports with their heat maps, and its hard negatives.

const svgTags = new Set(["svg", "g", "line", "path", "rect", "circle", "text"]);

// An element with attributes; strings among the children become text, never markup. Null and false are left out.
function element(tag, attributes = {}, ...children) {
  const made = svgTags.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "true" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const unseen = (text) => element("span", { class: "unseen" }, text);
const figure = (value) => (value === null || value === undefined ? "–" : Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(1));
const wordsOf = (text) => text.split(/\s+/).filter(Boolean);
const linkTo = (id) => `#${new URLSearchParams({ study: id })}`;
const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// The shortest edit from the reference to the other text, by the longest common subsequence:
// [{kind: "same" | "added" | "left", word, index}], where index counts the words of the other text.
function differences(reference, other) {
  const [from, to] = [reference, other].map((words) => words.map((word) => word.toLowerCase()));
  const width = to.length + 1;
  const common = new Uint32Array((from.length + 1) * width); // from word i of the one and word j of the other on
  for (let i = from.length - 1; i >= 0; i--) {
    for (let j = to.length - 1; j >= 0; j--) {
      common[i * width + j] =
        from[i] === to[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const steps = [];
  let [i, j] = [0, 0];
  while (i < from.length || j < to.length) {
    if (i < from.length && j < to.length && from[i] === to[j]) {
      steps.push({ kind: "same", word: other[j], index: j });
      i++;
      j++;
    } else if (j === to.length || (i < from.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      steps.push({ kind: "left", word: reference[i++], index: null });
    } else {
      steps.push({ kind: "added", word: other[j], index: j++ });
    }
  }
  return steps;
}

// A word as it is shown: the mark of a section as its heading.
const shownWord = (word) => (/^<(findings|impression)>$/.test(word) ? element("b", { class: "section" }, `${word[1].toUpperCase()}${word.slice(2, -1)}:`) : word);

// A text with its differences marked; `word` makes the node of a word.
function marked(reference, other, word = (text) => text) {
  const text = element("p", { class: "text" });
  let run = null;
  for (const step of differences(reference, other)) {
    if (step.kind !== run?.kind) {
      const [tag, label] = { same: ["span"], added: ["ins", "added: "], left: ["del", "left out: "] }[step.kind];
      run = { kind: step.kind, node: element(tag, {}, ...(label ? [unseen(label)] : [])) };
      text.append(run.node, " ");
    } else {
      run.node.append(" ");
    }
    run.node.append(step.kind === "left" ? shownWord(step.word) : word(shownWord(step.word), step.index));
  }
  return text;
}

const pictures = (index) => JSON.parse(document.getElementById(`pictures-${index}`).textContent);

function imagesOf(views, name, boxes = [], large = []) {
  if (!views.length) return element("p", { class: "empty" }, "This study has no image.");
  const frames = views.map((view, index) => {
    const { width, height, jpeg } = view;
    const alt = `View ${index + 1} of ${views.length} of ${name}`;
    const image = element("img", { src: `data:image/jpeg;base64,${jpeg}`, width, height, alt });
    const map = element("canvas", { width, height, hidden: true, "aria-hidden": true });
    const share = element("span", { class: "share" });
    const drawn = boxesOf(boxes.filter(([view]) => view === index));
    const frame = element("button", { type: "button", class: "frame", "aria-label": `Enlarge view ${index + 1}` }, image, map, drawn);
    frame.addEventListener("click", () => enlarge(image, drawn, alt, large[index]));
    return element("figure", {}, frame, element("figcaption", {}, `View ${index + 1}`, share));
  });
  return element("div", { class: "images" }, ...frames);
}

// From dark purple over orange to yellow, in even steps of lightness; the less attention, the less opaque.
const heat = (() => {
  const stops = [[40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
  return Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const colour = stops[low].map((channel, index) => channel + (at - low) * (stops[low + 1][index] - channel));
    return [...colour, 255 * 0.85 * Math.min(1, (value / 255) ** 0.75)];
  });
})();

// One map (rows x columns of 0..255) over a whole canvas, interpolated between the middles of its cells.
function paint(canvas, values, rows, columns) {
  const small = element("canvas", { width: columns, height: rows });
  const gray = small.getContext("2d").createImageData(columns, rows);
  values.forEach((value, index) => gray.data.set([value, value, value, 255], 4 * index));
  small.getContext("2d").putImageData(gray, 0, 0);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set(heat[pixels.data[at]], at);
  context.putImageData(pixels, 0, 0);
}

// Calls `show(index)` when a word of a text is pointed at, focused or tapped, and `show(null)` afterwards.
function lookingWords(text, variant, show) {
  const words = [...text.querySelectorAll(".word")];
  let chosen = null;
  const choose = (word) => {
    chosen?.setAttribute("aria-pressed", "false");
    chosen = word;
    chosen?.setAttribute("aria-pressed", "true");
    show(chosen && Number(chosen.dataset.index));
  };
  const wordAt = (event) => event.target.closest?.(".word");
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Report of ${variant}: each word shows its heat map`);
  words[0].tabIndex = 0; // one stop of the Tab key for the whole text
  text.addEventListener("pointerover", (event) => wordAt(event) && show(Number(wordAt(event).dataset.index)));
  text.addEventListener("pointerleave", () => show(chosen && Number(chosen.dataset.index)));
  text.addEventListener("click", (event) => wordAt(event)?.focus());
  text.addEventListener("focusin", (event) => {
    if (!wordAt(event)) return;
    for (const word of words) word.tabIndex = word === event.target ? 0 : -1;
    choose(event.target);
  });
  text.addEventListener("focusout", () => choose(null));
  text.addEventListener("clear", () => choose(null)); // also of a word that is only pointed at
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step && words[words.indexOf(event.target) + step];
    if (step && !event.altKey && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      event.stopPropagation(); // outside of a text these keys go from study to study
      next?.focus();
    }
  });
}

// Attention whose maximum is below so many times its average counts as even.
const AT_LEAST = 1.1;

// Lays the heat map of a word over the images of a study, where attention is above average; `show(null)` clears it.
function heatMaps(images, legend, maps, grid) {
  const [rows, columns] = grid;
  const figures = [...images.querySelectorAll("figure")];
  const values = bytes(maps);
  const cells = rows * columns;
  return (index, word) => {
    const of = figures.map((_, view) => values.subarray((index * figures.length + view) * cells).subarray(0, cells));
    const sums = of.map((map) => map.reduce((sum, value) => sum + value, 0));
    const total = sums.reduce((sum, value) => sum + value, 0);
    const average = total / (cells * figures.length);
    const isEven = 255 < AT_LEAST * average;
    const above = (value) => (isEven ? 0 : Math.max(0, (255 * (value - average)) / (255 - average)));
    figures.forEach((frame, view) => {
      const canvas = frame.querySelector("canvas");
      canvas.hidden = index === null;
      frame.querySelector(".share").textContent =
        index === null || !total ? "" : ` · ${Math.round((100 * sums[view]) / total)} %`;
      if (index !== null) paint(canvas, of[view].map(above), rows, columns);
    });
    legend.querySelector("output").textContent =
      index === null ? pointing : isEven ? `“${word}”: even attention everywhere` : `Where the model looked for “${word}”`;
  };
}

const pointing = "Point at a word or tap it to see where the model looked.";

function legendOf() {
  const bar = element("canvas", { width: 256, height: 1, "aria-hidden": true });
  const context = bar.getContext("2d");
  const pixels = context.createImageData(256, 1);
  heat.forEach((colour, value) => pixels.data.set(colour, 4 * value));
  context.putImageData(pixels, 0, 0);
  const scale = element("span", {}, "average or less ", bar, " maximum; %: share of the view");
  return element("div", { class: "legend" }, element("output", {}, pointing), scale);
}

const findingMarks = { correct: "✓", wrong: "✗", missed: "○" };

function findingsOf(findings) {
  if (!findings.length) return element("p", { class: "quiet" }, "No findings, neither in the reference nor in this report.");
  const chips = Object.keys(findingMarks).flatMap((kind) =>
    findings
      .filter(([, verdict]) => verdict === kind)
      .map(([finding]) =>
        element("li", { class: kind }, element("span", { "aria-hidden": true }, findingMarks[kind]), " ", element("b", {}, kind), ` ${finding}`),
      ),
  );
  return element("ul", { class: "findings", "aria-label": "Findings" }, ...chips);
}

// Cosines as bars from zero on one axis from -1 to 1.
function similaritiesOf(similarities) {
  const rows = [["positive", "positive"], ["hard", "hard negative"], ["hardened", "hardened negative"]];
  const list = element("dl", { class: "similarities", "aria-label": "Similarity of the image to each report, from -1 to 1" });
  for (const [key, name] of rows) {
    const value = similarities[key];
    const at = (cosine) => 100 + 100 * Math.max(-1, Math.min(1, cosine));
    const bar = element("svg", { viewBox: "0 0 200 12", preserveAspectRatio: "none", "aria-hidden": true, class: key });
    for (const cosine of [-1, -0.5, 0.5, 1]) bar.append(element("line", { class: "tick", x1: at(cosine), x2: at(cosine), y1: 0, y2: 12 }));
    if (value !== null) {
      const from = Math.min(at(0), at(value));
      bar.append(element("rect", { x: from, y: 2.5, width: Math.max(0.6, Math.abs(at(value) - at(0))), height: 7 }));
    }
    bar.append(element("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 12 }));
    list.append(element("div", {}, element("dt", {}, name), element("dd", { class: "bar" }, bar), element("dd", { class: "value" }, figure(value))));
  }
  const ends = ["−1", "0", "1"].map((cosine) => element("span", {}, cosine));
  return element("div", {}, list, element("div", { class: "axis", "aria-hidden": true }, ...ends));
}

function scoresOf(scores) {
  const list = element("dl", { class: "measures" });
  for (const [name, value] of Object.entries(scores)) {
    const text = explained[name];
    list.append(element("div", {}, element("dt", { title: text ?? null, class: text ? "explained" : null }, name), element("dd", {}, figure(value))));
  }
  return list;
}

// The report of a variant. `show(index, word)` shows the heat map of a word; null: there are no heat maps.
function writtenOf(variant, number, study, written, show) {
  const word = (text, index) =>
    show ? element("span", { class: "word", role: "button", tabindex: "-1", "aria-pressed": "false", "data-index": index }, text) : text;
  const text = marked(wordsOf(study.reference), written.words, word);
  if (show && written.words.length) lookingWords(text, variant, (index) => show(index, written.words[index]));
  return element(
    "section",
    { class: `written v${number % 8}`, "aria-label": variant },
    element("h4", {}, element("span", { class: `swatch v${number % 8}` }), variant),
    written.words.length ? text : element("p", { class: "empty" }, "The report is empty."),
    written.findings && findingsOf(written.findings),
    Object.keys(written.scores).length ? scoresOf(written.scores) : null,
    written.similarities && similaritiesOf(written.similarities),
  );
}

// The hard negatives of a study, each once, with their variants.
function hardNegativesOf(study, variants, find) {
  const by = new Map();
  for (const variant of variants) {
    const id = study.written[variant]?.hard_negative;
    if (id !== null && id !== undefined) by.set(id, [...(by.get(id) ?? []), variant]);
  }
  return [...by].map(([id, of]) => {
    const negative = find(id);
    const whose = of.length === variants.length ? "" : ` of ${of.join(", ")}`;
    const heading = element("h4", {}, `Hard negative${whose}: `, negative?.listed ? element("a", { href: linkTo(id) }, id) : id);
    if (!negative) return element("section", { class: "negative" }, heading, element("p", { class: "empty" }, "This study is not on the page."));
    const text = marked(wordsOf(study.reference), wordsOf(negative.reference));
    const images = imagesOf(pictures(negative.index).views, id);
    return element("section", { class: "negative", "aria-label": `Hard negative ${id}` }, heading, images, text);
  });
}

// The report in its own case, where cleaning changed it.
function originalOf(study) {
  if (!study.original || study.original === study.reference) return null;
  return element("div", { class: "original" }, element("h4", {}, "As written"), element("p", { class: "text" }, study.original));
}

// The whole view of a study; `find(id)` gives a study of the page or undefined.
function studyView(study, variants, find) {
  const { views, attention, large } = pictures(study.index);
  const images = imagesOf(views, study.id, study.boxes, large);
  const writing = variants.filter((variant) => study.written[variant]);
  const legend = Object.keys(attention).length && views.length ? legendOf() : null;
  const sections = writing.map((variant) => {
    const written = study.written[variant];
    const show = legend && attention[variant] ? heatMaps(images, legend, attention[variant], written.grid) : null;
    return writtenOf(variant, variants.indexOf(variant), study, written, show);
  });
  const differing = sections.length
    ? element("p", { class: "marks" }, "Compared with the reference: ", element("ins", {}, "added"), " ", element("del", {}, "left out"))
    : element("p", { class: "empty" }, "There is no generated report of this study.");
  return element(
    "div",
    { class: "study-body" },
    element("div", { class: "looked" }, images, study.boxes ? boxesSwitch(images, study.boxes) : null, legend),
    element(
      "div",
      { class: "texts" },
      element("section", { class: "reference", "aria-label": "Reference" }, element("h4", {}, "Reference"), element("p", { class: "text" }, study.reference), originalOf(study)),
      differing,
      ...sections,
      ...hardNegativesOf(study, writing, find),
    ),
  );
}
