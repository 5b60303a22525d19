// The rollout browser: unpacks the rows of #rollouts, filters them, and shows one next to the same sample by other models.
// Model text is hostile, so it only ever becomes text nodes. There is no innerHTML here.
"use strict";

const ANY = "";
const PAGE = 200;
const KEYS = ["arm", "difficulty", "outcome", "rule", "selection", "behaviour", "change"];
const NAMES = {
  arm: { train: "teachers, on train problems" },
  rule: { "(none)": "not dropped", over_quota: "over the quota" },
};
const UNJUDGED = ["unverifiable", "timeout", "failed"];
const state = { problems: {}, rollouts: [], shown: [], current: null, byId: new Map(), bySample: new Map() };
const $ = (selector) => document.querySelector(selector);

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

async function unpack() {
  const packed = JSON.parse($("#rollouts").textContent);
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Returns the values of a rollout for one filter; the filter matches if any of them is selected.
function values(rollout, key) {
  const problem = state.problems[rollout.problem];
  if (key === "difficulty") return [problem.difficulty];
  if (key === "change") return rollout.arm === "train" ? [] : [problem.change ?? ""];
  if (key === "behaviour") return rollout.spans.map((span) => span[0]);
  if (key === "rule") return rollout.arm === "train" ? rules(rollout.rule) : [];
  if (key === "selection") return rollout.arm === "train" ? [rollout.selected ? "selected" : "not_selected"] : [];
  if (key === "outcome") return outcomes(rollout.outcome);
  return [rollout[key]];
}

// No rule drops a rollout over the quota: its problem had enough rollouts without it.
function rules(rule) {
  return rule === "" ? ["(none)"] : rule === "over_quota" ? [rule, "(none)"] : [rule];
}

function outcomes(outcome) {
  if (outcome === "correct") return [outcome];
  return [outcome, "not_correct", ...(UNJUDGED.includes(outcome) ? ["not_judged"] : [])];
}

function index(payload) {
  state.problems = payload.problems;
  state.rollouts = payload.rollouts;
  for (const rollout of state.rollouts) {
    const problem = state.problems[rollout.problem];
    rollout.haystack = `${problem.question}\n${problem.answer ?? ""}\n${rollout.text}\n${rollout.id}\n${rollout.problem}`.toLowerCase();
    state.byId.set(rollout.id, rollout);
    const sample = `${rollout.problem} ${rollout.sample}`;
    if (!state.bySample.has(sample)) state.bySample.set(sample, []);
    state.bySample.get(sample).push(rollout);
  }
  for (const key of KEYS) {
    const counts = new Map();
    for (const rollout of state.rollouts) {
      for (const value of new Set(values(rollout, key))) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    const select = $(`[name=${key}]`);
    select.append(new Option("any", ANY));
    for (const [value, count] of [...counts].filter(([value]) => value !== "")) select.append(option(key, value, count));
    select.closest("label").hidden = select.options.length < 3;
  }
}

function option(key, value, count) {
  return new Option(`${named(key, value)} (${count})`, value);
}

function named(key, value) {
  return NAMES[key]?.[value] ?? value.replaceAll("_", " ");
}

function filter() {
  applyFilters();
  select(state.shown.includes(state.current) ? state.current : (state.shown[0] ?? null));
}

function applyFilters() {
  const selected = KEYS.map((key) => [key, $(`[name=${key}]`).value]).filter(([, value]) => value !== ANY);
  const text = $("[name=text]").value.trim().toLowerCase();
  state.shown = state.rollouts.filter(
    (rollout) => selected.every(([key, value]) => values(rollout, key).includes(value)) && rollout.haystack.includes(text),
  );
}

const MARKS = { correct: "✓", wrong: "✗", no_answer: "∅", truncated: "…", unverifiable: "?", timeout: "◷", failed: "!" };

function outcome(rollout) {
  return element("span", `outcome ${rollout.outcome}`, MARKS[rollout.outcome] ?? "·");
}

function list() {
  const position = state.shown.indexOf(state.current);
  const start = Math.floor(Math.max(0, position) / PAGE) * PAGE;
  const items = state.shown.slice(start, start + PAGE).map((rollout) => {
    const item = element("li", "", outcome(rollout), element("span", "arm", rollout.arm), state.problems[rollout.problem].question);
    item.setAttribute("aria-current", String(rollout === state.current));
    item.addEventListener("click", () => select(rollout));
    return item;
  });
  $(".list").replaceChildren(...items);
  const total = state.shown.length.toLocaleString("en");
  const place = state.current ? `${position + 1} of ${total} that match` : `${total} that match`;
  $(".matches").textContent = state.shown.length ? place : "No rollout on this page matches.";
  reveal($(".list [aria-current=true]")); // after the text above has its height, which the list loses
}

// Scrolls only the list; scrollIntoView would scroll the whole page.
function reveal(item) {
  if (!item) return;
  const box = $(".list");
  const top = item.offsetTop - box.offsetTop;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + item.offsetHeight - box.clientHeight;
}

// Returns the completion with its evidence marked. Of overlapping spans, only the first is marked.
function marked(rollout) {
  const text = element("div", "completion");
  let done = 0;
  for (const [behaviour, start, end] of [...rollout.spans].sort((a, b) => a[1] - b[1])) {
    if (start < done) continue;
    const mark = element("mark", behaviour, rollout.text.slice(start, end));
    mark.title = behaviour.replaceAll("_", " ");
    text.append(rollout.text.slice(done, start), mark);
    done = end;
  }
  text.append(rollout.text.slice(done));
  return text;
}

function fate(rule) {
  return rule === "over_quota" ? named("rule", rule) : `dropped as ${named("rule", rule)}`;
}

function column(rollout) {
  const facts = [
    rollout.outcome.replaceAll("_", " "),
    rollout.extracted === null ? null : `answered ${rollout.extracted}`,
    `${rollout.tokens.toLocaleString("en")} tokens`,
    rollout.num_steps === null ? null : `${rollout.num_steps} reasoning ${rollout.num_steps === 1 ? "step" : "steps"}`,
    rollout.arm === "train" && rollout.rule ? fate(rollout.rule) : null,
    rollout.selected ? "selected for training" : null,
  ].filter((fact) => fact !== null);
  const name = rollout.arm === "train" ? `${rollout.by} on a train problem` : rollout.arm;
  const head = element("header", "", outcome(rollout), element("strong", "", name), element("span", "facts", facts.join(" · ")));
  const detail = rollout.detail ? element("p", "facts", rollout.detail) : null;
  return element("section", rollout === state.current ? "column current" : "column", head, detail, marked(rollout));
}

// Returns a small button for each sample of the same problem by the same model.
function samples(rollout) {
  const siblings = state.rollouts.filter((other) => other.problem === rollout.problem && other.arm === rollout.arm);
  const strip = element("p", "samples", "Samples: ");
  for (const sibling of siblings) {
    const button = element("button", `outcome ${sibling.outcome}`, sibling.sample);
    button.type = "button";
    button.title = sibling.outcome.replaceAll("_", " ");
    button.setAttribute("aria-current", String(sibling === rollout));
    button.addEventListener("click", () => select(sibling));
    strip.append(button);
  }
  return strip;
}

function detail() {
  const rollout = state.current;
  if (!rollout) return $(".detail").replaceChildren();
  const problem = state.problems[rollout.problem];
  const side = rollout.arm === "train" ? [rollout] : state.bySample.get(`${rollout.problem} ${rollout.sample}`);
  const facts = [problem.difficulty, `answer ${problem.answer ?? "unknown"}`, problem.change ?? ""].filter(Boolean);
  $(".detail").replaceChildren(
    element("h3", "question", problem.question),
    element("p", "facts", facts.join(" · ")),
    samples(rollout),
    element("div", "columns", ...side.map(column)),
  );
}

function show(rollout) {
  state.current = rollout;
  list();
  detail();
}

function select(rollout) {
  show(rollout);
  if (state.ready) history.replaceState(null, "", rollout ? `#rollout=${rollout.id}` : "#browser");
}

function step(by) {
  const next = state.shown[state.shown.indexOf(state.current) + by];
  if (next) select(next);
}

function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "Escape" && typing) document.activeElement.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inList = document.activeElement === $(".list");
  if (event.key === "j" || (inList && event.key === "ArrowDown")) step(1);
  else if (event.key === "k" || (inList && event.key === "ArrowUp")) step(-1);
  else if (event.key === "/") $("[name=text]").focus();
  else return;
  event.preventDefault();
}

// A link such as <a href="#browser" data-filter="arm=train&rule=duplicate"> shows only those rollouts. The link itself sets
// the address, so that going back returns to the link.
function followFilter(event) {
  const link = event.target.closest?.("[data-filter]");
  if (!link) return;
  setFilters(new URLSearchParams(link.dataset.filter));
  show(state.shown[0] ?? null);
}

// A value that no rollout of this page has becomes an additional option, so that the filters show why nothing matches.
function setFilters(parameters) {
  for (const key of KEYS) {
    const select = $(`[name=${key}]`);
    const value = parameters.get(key) ?? ANY;
    select.value = value;
    if (select.value === value) continue;
    select.append(option(key, value, 0));
    select.value = value;
    select.closest("label").hidden = false;
  }
  $("[name=text]").value = parameters.get("text") ?? "";
  applyFilters();
}

function followPermalink() {
  if (!location.hash.startsWith("#rollout=")) return;
  const id = location.hash.slice("#rollout=".length);
  const rollout = state.byId.get(id) ?? null;
  if (!state.shown.includes(rollout)) setFilters(new URLSearchParams());
  show(rollout);
  if (!rollout) $(".detail").replaceChildren(element("p", "absent", `Rollout ${id} is not on this page.`));
  $("#browser").scrollIntoView();
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    $("#browser").append(element("p", "absent", "This browser is too old to unpack the rollouts."));
    return;
  }
  index(await unpack());
  $(".filters").hidden = false;
  $(".reader").hidden = false;
  const isExample = (rollout) => rollout.arm === "student" && state.problems[rollout.problem].change === "gained" && rollout.outcome === "correct";
  state.current = state.rollouts.find(isExample) ?? null;
  filter();
  followPermalink();
  state.ready = true;
  $(".filters").addEventListener("input", filter);
  $(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", followFilter);
  window.addEventListener("hashchange", followPermalink);
}

const started = start();
