// The page: which study is shown, which are listed and in what order. The address has all of it, after the #.

const { variants, studies, neighbours, curves, byDifference, explained } = JSON.parse(document.getElementById("data").textContent);
const byId = new Map([...studies, ...neighbours].map((study, index) => [study.id, Object.assign(study, { index, listed: index < studies.length })]));
const at = (id) => document.getElementById(id);
const PER_PAGE = 50;

const collator = new Intl.Collator("en", { numeric: true });
const firstView = document.querySelector("nav a").dataset.view;
const fresh = { view: firstView, study: "", q: "", sort: "", order: "worst", differ: "", wrong: "" };
const state = { ...fresh };
let hits = [];
let page = 0;

for (const study of studies) {
  const written = variants.map((variant) => study.written[variant]).filter(Boolean);
  study.haystack = [study.id, study.reference, ...written.map(({ text }) => text)].join("\n").toLowerCase();
  study.wrong = written.reduce((sum, { findings }) => sum + (findings ?? []).filter(([, verdict]) => verdict === "wrong").length, 0);
  // a variant without a report or findings counts as no difference
  study.textsDiffer = new Set(written.map(({ text }) => text)).size > 1;
  study.findingsDiffer = new Set(written.flatMap(({ findings }) => (findings ? [JSON.stringify([...findings].sort())] : []))).size > 1;
}

// A score of a variant, as a key in the address and in the list of sort keys; without a variant, how far the variants lie apart.
const keyOf = (variant, score) => JSON.stringify([variant, score]);
function valueOf(study, key) {
  const [variant, score] = JSON.parse(key);
  if (variant !== null) return study.written[variant]?.scores[score] ?? null;
  const values = variants.map((name) => study.written[name]?.scores[score] ?? null).filter((value) => value !== null);
  return values.length > 1 ? Math.max(...values) - Math.min(...values) : null;
}

function found() {
  const query = state.q.trim().toLowerCase();
  const some = studies.filter(
    (study) =>
      study.haystack.includes(query) &&
      (!state.wrong || study.wrong) &&
      (!state.differ || (state.differ === "texts" ? study.textsDiffer : study.findingsDiffer)),
  );
  const values = new Map(state.sort ? some.map((study) => [study, valueOf(study, state.sort)]) : []);
  const sign = state.order === "best" ? -1 : 1;
  return some.sort((a, b) => {
    const [one, other] = [values.get(a) ?? null, values.get(b) ?? null];
    if (one !== other && (one === null || other === null)) return one === null ? 1 : -1; // unknown comes last
    return sign * (one - other) || collator.compare(a.id, b.id);
  });
}

function writeAddress() {
  // with a study, the view is always written: #study=... alone shows the study
  const changed = Object.entries(state).filter(([name, value]) => value !== fresh[name] || (name === "view" && value !== "studies"));
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
  for (const link of document.querySelectorAll("nav a")) {
    const others = new URLSearchParams(changed);
    others.set("view", link.dataset.view);
    link.href = `#${others}`;
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(fresh)) state[name] = address.get(name) ?? fresh[name];
  if (address.get("study") && !address.get("view")) state.view = "studies";
  if (!at(state.view) || state.view === "study") state.view = fresh.view;
}

function showView() {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== state.view;
}

function listItem(study) {
  const wrong = study.wrong ? element("span", { class: "wrong" }, `✗ ${study.wrong}`, unseen(" wrong findings,")) : "";
  const value = state.sort ? element("span", { class: "value" }, figure(valueOf(study, state.sort))) : "";
  const link = element(
    "a",
    { href: linkTo(study.id), "data-study": study.id },
    element("span", { class: "id" }, study.id),
    element("span", {}, wrong, " ", value),
    element("span", { class: "start" }, study.reference.slice(0, 90)),
  );
  if (study.id === state.study) link.setAttribute("aria-current", "true");
  return element("li", {}, link);
}

function showList() {
  const pages = Math.max(1, Math.ceil(hits.length / PER_PAGE));
  page = Math.max(0, Math.min(page, pages - 1));
  at("list").replaceChildren(...hits.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(listItem));
  at("pager").hidden = pages === 1;
  at("page").textContent = `${page + 1} of ${pages}`;
  at("page-back").disabled = page === 0;
  at("page-on").disabled = page === pages - 1;
  // scroll the list only, not the page
  const current = at("list").querySelector("[aria-current]");
  if (current) {
    const { top, bottom } = current.getBoundingClientRect();
    const frame = at("list").getBoundingClientRect();
    if (top < frame.top || bottom > frame.bottom) at("list").scrollTop += top - frame.top - 40;
  } else at("list").scrollTop = 0;
}

let drawnStudy = null;
function showStudy() {
  const study = byId.get(state.study);
  const place = hits.indexOf(study);
  at("place").textContent = place < 0 ? "not in the list" : `${place + 1} of ${hits.length}`;
  at("back").disabled = place === 0 || !hits.length;
  at("on").disabled = place === hits.length - 1;
  if (study === drawnStudy) return;
  drawnStudy = study;
  at("study-heading").textContent = study.id;
  at("study-link").href = linkTo(study.id);
  at("study").replaceChildren(studyView(study, variants, (id) => byId.get(id)));
}

function select(id) {
  state.study = id;
  const place = hits.indexOf(byId.get(id));
  if (place >= 0) page = Math.floor(place / PER_PAGE);
  showList();
  showStudy();
  writeAddress();
}

function step(by) {
  const place = hits.indexOf(byId.get(state.study));
  const next = hits[place < 0 ? 0 : place + by];
  if (next) select(next.id);
}

// After a change of search, filter or order: stay with the study if it is still found, else show the first.
function refind() {
  hits = found();
  at("count").textContent = hits.length === studies.length ? `${studies.length} studies` : `${hits.length} of ${studies.length} studies`;
  page = 0;
  const stays = hits.length ? hits.includes(byId.get(state.study)) : byId.has(state.study);
  select(stays ? state.study : (hits[0] ?? studies[0]).id);
}

const controls = { q: "query", sort: "sort", order: "order", differ: "disagreement", wrong: "wrong" };

function showControls() {
  for (const [name, id] of Object.entries(controls)) {
    if (name === "wrong") at(id).checked = Boolean(state.wrong);
    else at(id).value = state[name];
    if (name !== "wrong" && at(id).value !== state[name]) at(id).value = state[name] = fresh[name]; // from the address of another page
  }
  showOrder();
}

function showOrder() {
  at("order").disabled = !state.sort;
  const names = state.sort && JSON.parse(state.sort)[0] === null ? { worst: "smallest first", best: "largest first" } : { worst: "worst first", best: "best first" };
  for (const option of at("order").options) option.textContent = names[option.value];
}

function setUpControls() {
  at("sort").append(element("option", { value: "" }, "id"));
  if (variants.length > 1) {
    const shared = Object.keys(studies[0].written[variants[0]]?.scores ?? {});
    const options = shared.map((name) => element("option", { value: keyOf(null, name) }, `${name} · largest difference`));
    if (options.length) at("sort").append(element("optgroup", { label: "between variants" }, ...options));
    if (shared.includes(byDifference)) Object.assign(fresh, { sort: keyOf(null, byDifference), order: "best" });
  }
  for (const variant of variants) {
    const names = new Set(studies.flatMap((study) => Object.keys(study.written[variant]?.scores ?? {})));
    const options = [...names].map((name) => element("option", { value: keyOf(variant, name) }, variants.length > 1 ? `${name} · ${variant}` : name));
    if (options.length) at("sort").append(element("optgroup", { label: variant }, ...options));
  }
  const read = studies.some((study) => Object.values(study.written).some(({ findings }) => findings));
  at("wrong-label").hidden = !read;
  at("disagreement-label").hidden = variants.length < 2;
  at("disagreement").querySelector("[value=findings]").hidden = !read;
  for (const [name, id] of Object.entries(controls)) {
    at(id).addEventListener(name === "q" ? "input" : "change", () => {
      state[name] = name === "wrong" ? (at(id).checked ? "1" : "") : at(id).value;
      showOrder();
      if (name === "sort" || name === "order") state.study = ""; // go to the worst, or the best
      refind();
    });
  }
  at("list").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const hadFocus = document.activeElement === link;
    select(link.dataset.study);
    if (hadFocus) at("list").querySelector("[aria-current]")?.focus({ preventScroll: true });
  });
  at("study").addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    select(new URLSearchParams(link.hash.slice(1)).get("study"));
    at("study-heading").focus();
  });
  at("page-back").addEventListener("click", () => (page--, showList()));
  at("page-on").addEventListener("click", () => (page++, showList()));
  at("back").addEventListener("click", () => step(-1));
  at("on").addEventListener("click", () => step(1));
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    at("study-heading").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || state.view !== "studies") return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape") {
      event.target.blur();
      for (const text of at("study").querySelectorAll("[role=group]")) text.dispatchEvent(new Event("clear"));
    } else if (typing) return;
    else if (event.key === "/") {
      event.preventDefault();
      at("query").focus();
      at("query").select();
    } else if (["j", "ArrowRight"].includes(event.key)) step(1);
    else if (["k", "ArrowLeft"].includes(event.key)) step(-1);
  });
}

function show() {
  readAddress();
  showView();
  if (!studies.length) return writeAddress();
  showControls();
  const asked = byId.get(state.study);
  refind();
  if (asked?.listed) select(asked.id); // even if the filter leaves it out
}

if (studies.length) setUpControls();
if (curves.length) drawCurves(at("charts"), curves, variants);
addEventListener("hashchange", show);
show();
