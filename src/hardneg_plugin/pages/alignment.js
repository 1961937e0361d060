// What alignments know of a study: how they read its reference, and which entities they find where.

const verdictMarks = {
  "found and stated": ["✓", "both"],
  "found, not stated": ["✗", "unstated"],
  "found, left open": ["?", "open"],
  "stated, not found": ["○", "unfound"],
  found: ["•", "open"],
};

const shareOf = (value) => (value < 0.001 ? "below 0.001" : value.toFixed(3));

// Something that shows a map where it is pointed at, focused or tapped; what it is called holds its number too.
function lookingAt(index, name, kind, ...children) {
  return element(
    "span",
    { class: `word ${kind}`, role: "button", tabindex: "-1", "aria-pressed": "false", "data-index": index, "aria-label": name },
    ...children,
  );
}

// Makes the words in `group` show their maps; `told(index)` is the number that stands before what the map is of.
function showMaps(group, label, heated, words, told) {
  const { images, legend, attention, grid } = heated;
  const show = heatMaps(images, legend, attention, grid);
  lookingWords(group, "", (index) => {
    show(index, words[index]);
    const output = legend.querySelector("output");
    if (index !== null && told(index)) output.textContent = `${told(index)} · ${output.textContent}`;
  });
  group.setAttribute("aria-label", label);
}

// The reference as a variant reads it: under each word a bar as high as its importance, beside that of the most important one.
function readingOf(variant, number, study, reading, heated) {
  const { words, importance } = reading;
  const most = Math.max(...(importance ?? []), Number.MIN_VALUE);
  const text = element("p", { class: "text weighed" });
  words.forEach((word, index) => {
    const name = importance ? `${word}, importance ${shareOf(importance[index])}` : word;
    const shown = lookingAt(index, name, "", word);
    if (importance) shown.style.setProperty("--share", importance[index] / most);
    text.append(shown, " ");
  });
  const own = wordsOf(study.reference);
  if (own.length > words.length && startsWith(own, words)) {
    text.append(element("span", { class: "unread" }, unseen("not read: "), own.slice(words.length).join(" ")));
  }
  showMaps(text, `Reference as ${variant} reads it: each word shows where it looks`, heated, words, (index) =>
    importance && `Importance ${shareOf(importance[index])}`,
  );
  const about = importance ? " – the higher the bar under a word, the more important" : " – each word shows where it looks";
  const heading = element("p", { class: "marks" }, element("span", { class: "swatch" }), `As ${variant} reads it${about}`);
  return element("div", { class: `reading v${number % 8}` }, heading, text);
}

const startsWith = (all, some) => some.every((word, index) => word === all[index]);

// The entities that a variant finds or the report states, the most likely first.
function entitiesOf(variant, entities, heated) {
  const heading = element("p", { class: "quiet" }, "Entities, the most likely first, with their probability");
  const { found } = entities;
  if (!found.length) return element("p", { class: "quiet" }, "No entity is found, and none is known to be stated.");
  const items = found.map(([phrase, probability, verdict], index) => {
    const [mark, kind] = verdictMarks[verdict];
    return element(
      "li",
      {},
      lookingAt(
        index,
        `${phrase}, probability ${shareOf(probability)}, ${verdict}`,
        `entity ${kind}`,
        element("span", { "aria-hidden": true }, mark),
        ` ${phrase} `,
        element("b", {}, shareOf(probability)),
        ` ${verdict}`,
      ),
    );
  });
  const group = element("div", {}, element("ul", { class: "entities" }, ...items));
  const label = `Entities by ${variant}: each shows where it is looked for`;
  showMaps(group, label, heated, found.map(([phrase]) => phrase), (index) => `Probability ${shareOf(found[index][1])}`);
  return element("div", { class: "looked-for" }, heading, group);
}

// The view of a study with what its alignments know added to it.
function withAlignments(view) {
  return (study, variants, find) => {
    const body = view(study, variants, find);
    const { views, readings = {}, entities = {} } = pictures(study.index);
    if (!views.length || !(Object.keys(readings).length || Object.keys(entities).length)) return body;
    const looked = body.querySelector(".looked");
    const legend = looked.querySelector(".legend") ?? looked.appendChild(legendOf());
    const heated = ({ attention, grid }) => ({ images: looked.querySelector(".images"), legend, attention, grid });
    const read = variants.filter((variant) => readings[variant]?.words.length);
    const reference = body.querySelector(".reference");
    if (read.length && read.every((variant) => startsWith(wordsOf(study.reference), readings[variant].words))) {
      reference.querySelector(".text").remove(); // its words are those of the readings
    }
    for (const variant of read) {
      const reading = readings[variant];
      reference.append(readingOf(variant, variants.indexOf(variant), study, reading, heated(reading)));
    }
    for (const section of body.querySelectorAll(".written")) {
      const own = entities[section.getAttribute("aria-label")];
      if (own) section.append(entitiesOf(section.getAttribute("aria-label"), own, heated(own)));
    }
    return body;
  };
}

studyView = withAlignments(studyView);
