// The rollout browser: unpacks the rows of #rollouts, filters them, shows one beside its siblings of other arms.
// Model text is hostile: it becomes text nodes and nothing else; there is no innerHTML here.
"use strict";

const ANY = "";
const PAGE = 200;
const KEYS = ["arm", "difficulty", "outcome", "rule", "behaviour", "change"];
const NAMES = { rule: { [ANY]: "any", "(none)": "not dropped" } };
const state = { problems: {}, rollouts: [], shown: [], current: null, byId: new Map(), byAttempt: new Map() };
const $ = (selector) => document.querySelector(selector);

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

async function unpack() {
  const packed = JSON.parse($("#rollouts").textContent);
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// What a rollout says to each filter: a list of values, any of which may match.
function values(rollout, key) {
  const problem = state.problems[rollout.problem];
  if (key === "difficulty") return [problem.difficulty];
  if (key === "change") return rollout.arm === "train" ? [] : [problem.change ?? ""];
  if (key === "behaviour") return rollout.spans.map((span) => span[0]);
  if (key === "rule") return rollout.arm === "train" ? [rollout.rule || "(none)"] : [];
  return [rollout[key]];
}

function index(payload) {
  state.problems = payload.problems;
  state.rollouts = payload.rollouts;
  for (const rollout of state.rollouts) {
    const problem = state.problems[rollout.problem];
    rollout.haystack = `${problem.question}\n${problem.answer ?? ""}\n${rollout.text}\n${rollout.id}`.toLowerCase();
    state.byId.set(rollout.id, rollout);
    const attempt = `${rollout.problem} ${rollout.sample}`;
    if (!state.byAttempt.has(attempt)) state.byAttempt.set(attempt, []);
    state.byAttempt.get(attempt).push(rollout);
  }
  for (const key of KEYS) {
    const counts = new Map();
    for (const rollout of state.rollouts) {
      for (const value of new Set(values(rollout, key))) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    const select = $(`[name=${key}]`);
    select.append(new Option("any", ANY));
    for (const [value, count] of [...counts].filter(([value]) => value !== "")) {
      select.append(new Option(`${(NAMES[key]?.[value] ?? value).replaceAll("_", " ")} (${count})`, value));
    }
    select.closest("label").hidden = select.options.length < 3;
  }
}

function filter() {
  const wanted = KEYS.map((key) => [key, $(`[name=${key}]`).value]).filter(([, value]) => value !== ANY);
  const text = $("[name=text]").value.trim().toLowerCase();
  state.shown = state.rollouts.filter(
    (rollout) => wanted.every(([key, value]) => values(rollout, key).includes(value)) && rollout.haystack.includes(text),
  );
  select(state.shown.includes(state.current) ? state.current : (state.shown[0] ?? null));
}

const MARKS = { correct: "✓", wrong: "✗", no_answer: "∅", truncated: "…", unverifiable: "?", timeout: "⧗", failed: "!" };

function outcome(rollout) {
  return element("span", `outcome ${rollout.outcome}`, MARKS[rollout.outcome] ?? "·");
}

function list() {
  const position = Math.max(0, state.shown.indexOf(state.current));
  const start = Math.floor(position / PAGE) * PAGE;
  const items = state.shown.slice(start, start + PAGE).map((rollout) => {
    const item = element("li", "", outcome(rollout), element("span", "arm", rollout.arm), state.problems[rollout.problem].question);
    item.setAttribute("aria-current", String(rollout === state.current));
    item.addEventListener("click", () => select(rollout));
    return item;
  });
  $(".list").replaceChildren(...items);
  reveal($(".list [aria-current=true]"));
  const total = state.shown.length;
  $(".matches").textContent = total ? `${position + 1} of ${total.toLocaleString("en")} that match` : "Nothing matches.";
}

// Scrolls the list alone; scrollIntoView would drag the whole page along.
function reveal(item) {
  if (!item) return;
  const box = $(".list");
  const top = item.offsetTop - box.offsetTop;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + item.offsetHeight - box.clientHeight;
}

// The completion with its evidence marked. Where spans overlap the first one wins.
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

function column(rollout) {
  const facts = [
    rollout.outcome.replaceAll("_", " "),
    rollout.extracted === null ? null : `answered ${rollout.extracted}`,
    `${rollout.tokens.toLocaleString("en")} tokens`,
    rollout.depth === null ? null : `depth ${rollout.depth}`,
    rollout.arm === "train" && rollout.rule ? `dropped by ${rollout.rule.replaceAll("_", " ")}` : null,
    rollout.selected ? "selected for training" : null,
  ].filter((fact) => fact !== null);
  const name = rollout.arm === "train" ? `${rollout.by} on a train problem` : rollout.arm;
  const head = element("header", "", outcome(rollout), element("strong", "", name), element("span", "facts", facts.join(" · ")));
  const detail = rollout.detail ? element("p", "facts", rollout.detail) : null;
  return element("section", rollout === state.current ? "column current" : "column", head, detail, marked(rollout));
}

// The other attempts of the same arm at the same problem, one small button each.
function attempts(rollout) {
  const siblings = state.rollouts.filter((other) => other.problem === rollout.problem && other.arm === rollout.arm);
  const strip = element("p", "attempts", "Attempts: ");
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
  const side = rollout.arm === "train" ? [rollout] : state.byAttempt.get(`${rollout.problem} ${rollout.sample}`);
  const facts = [problem.difficulty, `answer ${problem.answer ?? "unknown"}`, problem.change ?? ""].filter(Boolean);
  $(".detail").replaceChildren(
    element("h3", "question", problem.question),
    element("p", "facts", facts.join(" · ")),
    attempts(rollout),
    element("div", "columns", ...side.map(column)),
  );
}

function select(rollout) {
  state.current = rollout;
  list();
  detail();
  if (rollout && state.ready) history.replaceState(null, "", `#rollout=${rollout.id}`);
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

// A link such as <a data-filter="rule=duplicate"> shows just those rollouts.
function followFilter(event) {
  const wanted = event.target.closest?.("[data-filter]")?.dataset.filter;
  if (!wanted) return;
  const [key, value] = wanted.split("=");
  for (const other of KEYS) $(`[name=${other}]`).value = other === key ? value : ANY;
  $("[name=text]").value = "";
  filter();
}

function followPermalink() {
  const rollout = state.byId.get(location.hash.replace("#rollout=", ""));
  if (!rollout) return;
  select(rollout);
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
  const isTelling = (rollout) => rollout.arm === "student" && state.problems[rollout.problem].change === "gained" && rollout.outcome === "correct";
  state.current = state.rollouts.find(isTelling) ?? null;
  filter();
  followPermalink();
  state.ready = true;
  $(".filters").addEventListener("input", filter);
  $(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", followFilter);
  window.addEventListener("hashchange", followPermalink);
}

start();
