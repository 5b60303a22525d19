// Loads the page again when the run has grown, and returns to where the reader was. Only in pages of `reasonray view`.
"use strict";

const POLL_MS = 3000;
const PLACE = `reasonray ${location.pathname}`;
const bar = document.querySelector(".live");
const hasBrowser = typeof started !== "undefined"; // of rollouts.js, which a page without rollouts does not hold

function sectionInView() {
  return [...document.querySelectorAll("main > section")].findLast((section) => section.getBoundingClientRect().top <= 1);
}

function remember() {
  const section = sectionInView();
  const place = { section: section?.id, offset: section ? -section.getBoundingClientRect().top : scrollY };
  if (hasBrowser) {
    const filters = [...KEYS, "text"].map((key) => [key, $(`[name=${key}]`).value]);
    Object.assign(place, { filters: new URLSearchParams(filters).toString(), rollout: state.current?.id });
  }
  sessionStorage.setItem(PLACE, JSON.stringify(place));
}

async function comeBack() {
  const place = JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
  sessionStorage.removeItem(PLACE);
  if (hasBrowser) await started;
  if (!place) return;
  if (hasBrowser && place.filters) {
    setFilters(new URLSearchParams(place.filters));
    show(state.byId.get(place.rollout) ?? state.shown[0] ?? null);
  }
  const section = place.section ? document.getElementById(place.section) : null;
  scrollTo(0, place.offset + (section ? section.getBoundingClientRect().top + scrollY : 0));
}

// A reader who is typing, or has marked some text, is not interrupted.
function isBusy() {
  return document.hidden || !getSelection().isCollapsed || document.activeElement?.matches("select, input[type=search]");
}

function describe(now) {
  const age = now.age < 120 ? `${Math.round(now.age)} s` : `${Math.round(now.age / 60)} min`;
  const sign = now.stage ? `${now.stage}: last change ${age} ago` : "nothing has happened yet";
  return now.note ? `${sign} · ${now.note}` : sign;
}

async function poll() {
  const status = bar.querySelector("[role=status]");
  try {
    const now = await (await fetch("state", { cache: "no-store" })).json();
    status.textContent = describe(now);
    if (now.version !== bar.dataset.version && bar.querySelector("input").checked && !isBusy()) {
      remember();
      location.reload();
      return;
    }
  } catch {
    status.textContent = "`reasonray view` has ended; this page stays as it is";
    return;
  }
  setTimeout(poll, POLL_MS);
}

comeBack().then(poll);
