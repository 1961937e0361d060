// What the objectives make of a study: how they read its reference, and which entities they find where.

const verdictMarks = {
  "found and stated": ["✓", "both"],
  "found, not stated": ["✗", "unstated"],
  "found, left open": ["?", "open"],
  "stated, not found": ["○", "unfound"],
  found: ["•", "open"],
};

const shareOf = (value) => (value < 0.001 ? "below 0.001" : value.toFixed(3));

// An element that shows a heat map when pointed at, focused or tapped; its label includes its number.
function lookingAt(index, name, kind, ...children) {
  return element(
    "span",
    { class: `word ${kind}`, role: "button", tabindex: "-1", "aria-pressed": "false", "data-index": index, "aria-label": name },
    ...children,
  );
}

// Makes the words in `group` show their heat maps; `number(index)` is put before the caption.
function showMaps(group, label, heated, words, number) {
  const { images, legend, attention, grid } = heated;
  const show = heatMaps(images, legend, attention, grid);
  lookingWords(group, "", (index) => {
    show(index, words[index]);
    const output = legend.querySelector("output");
    if (index !== null && number(index)) output.textContent = `${number(index)} · ${output.textContent}`;
  });
  group.setAttribute("aria-label", label);
}

// The reference as a variant reads it: the bar under a word is its importance relative to the most important word.
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
  const reference = wordsOf(study.reference);
  if (reference.length > words.length && startsWith(reference, words)) {
    text.append(element("span", { class: "unread" }, unseen("not read: "), reference.slice(words.length).join(" ")));
  }
  showMaps(text, `Reference as ${variant} reads it: each word shows its heat map`, heated, words, (index) =>
    importance && `Importance ${shareOf(importance[index])}`,
  );
  const about = importance ? " – the higher the bar under a word, the more important" : " – each word shows its heat map";
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
  const label = `Entities of ${variant}: each shows its heat map`;
  showMaps(group, label, heated, found.map(([phrase]) => phrase), (index) => `Probability ${shareOf(found[index][1])}`);
  return element("div", { class: "looked-for" }, heading, group);
}

// Adds readings and entities to the view of a study.
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
      reference.querySelector(".text").remove(); // the readings show the same words
    }
    for (const variant of read) {
      const reading = readings[variant];
      reference.append(readingOf(variant, variants.indexOf(variant), study, reading, heated(reading)));
    }
    for (const section of body.querySelectorAll(".written")) {
      const variant = section.getAttribute("aria-label");
      if (entities[variant]) section.append(entitiesOf(variant, entities[variant], heated(entities[variant])));
    }
    return body;
  };
}

studyView = withAlignments(studyView);
