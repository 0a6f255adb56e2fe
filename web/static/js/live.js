// Parts of a page with data-live="topic topic" are fetched anew when the node says that one of these changed. What
// somebody does there goes on: a part waits while it is typed in, pressed or marked; focus and scrolling stay.
import { signInAgain } from "./session.js";
import { showTimes } from "./times.js";

const EVERY_MS = 1000;
let timer = null;
let last = 0;
let stale = false; // a part is shown that was in use when a newer one came
let pressed = false; // a button that is replaced between press and release hears of no click

const markOf = (page) => page.querySelector("meta[name=mark]")?.content ?? "";
let mark = markOf(document); // how far the node's data had changed when what is shown was read

const parts = () => [...document.querySelectorAll("[data-live]")];

// Whether somebody typed or chose something in a field and has not saved it. A hidden one is nobody's.
function touched(field) {
  if (!field.name || field.type === "hidden") return false;
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  if (!field.options) return field.value !== field.defaultValue;
  return field.value !== ([...field.options].find((one) => one.defaultSelected) ?? field.options[0])?.value;
}

function unsaved(part) { // a dialog that is closed is given up
  return [...part.querySelectorAll("input, textarea, select")].some((field) => !field.closest("dialog") && touched(field));
}

function busy(part) { // what somebody is using is not taken from under their hands
  const selection = getSelection();
  return pressed || part.querySelector("dialog[open]") || unsaved(part)
    || (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select"))
    || (!selection.isCollapsed && selection.containsNode(part, true));
}

// How an element is found again in the new part; "" if it cannot be told from others.
function selectorOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  for (const name of ["data-opens", "data-copy", "href"]) {
    if (element.hasAttribute(name)) return `[${name}="${CSS.escape(element.getAttribute(name))}"]`;
  }
  const form = element.closest("form[data-call]");
  if (form) return `form[data-call="${CSS.escape(form.dataset.call)}"] button`;
  return element.matches(".table-wrap") ? ".table-wrap" : "";
}

function replace(part, other) {
  const focused = part.contains(document.activeElement) ? selectorOf(document.activeElement) : "";
  const places = [...part.querySelectorAll(".table-wrap")].map((place) => [place.scrollLeft, place.scrollTop]);
  part.replaceChildren(...document.adoptNode(other).childNodes);
  [...part.querySelectorAll(".table-wrap")].forEach((place, index) => place.scrollTo(...(places[index] ?? [0, 0])));
  if (focused) part.querySelector(focused)?.focus({ preventScroll: true });
}

/** Fetch this page again and put its live parts in place. */
export async function renew() {
  last = Date.now();
  let text;
  try {
    const answer = await fetch(location.href, { headers: { "X-ODS-Background": "1" } });
    if (answer.redirected && new URL(answer.url).pathname === "/ui/sign-in") {
      await signInAgain();
      soon();
      return;
    }
    if (!answer.ok || answer.redirected) return;
    text = await answer.text();
  } catch {
    return; // the node is away: what is shown stays
  }
  const fresh = new DOMParser().parseFromString(text, "text/html");
  mark = markOf(fresh);
  stale = false;
  for (const part of parts()) {
    const other = fresh.getElementById(part.id);
    if (!other) continue;
    if (busy(part)) {
      stale = true;
      continue;
    }
    part.hidden = other.hidden;
    showTimes(other);
    const opened = [...part.querySelectorAll("details")];
    [...other.querySelectorAll("details")].forEach((one, index) => { one.open = opened[index]?.open ?? one.open; });
    if (other.innerHTML === part.innerHTML) continue;
    replace(part, other);
  }
}

function soon() {
  timer ??= setTimeout(() => {
    timer = null;
    renew();
  }, Math.max(0, EVERY_MS - (Date.now() - last)));
}

/** Listen as long as the page is looked at. */
export function followChanges() {
  const topics = new Set(parts().flatMap((part) => part.dataset.live.split(" ")).filter(Boolean));
  if (!topics.size) return;
  let source = null;
  const again = async () => {
    source = null;
    await renew(); // if the session has ended, it asks
    if (!source && !document.hidden) open();
  };
  const open = () => {
    source = new EventSource(`/ui/live?${new URLSearchParams({ topics: [...topics].join(","), since: mark })}`);
    source.addEventListener("changed", soon);
    source.addEventListener("ended", () => {
      source?.close();
      again();
    });
    source.addEventListener("error", () => {
      if (source?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      setTimeout(again, 5000);
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) open();
  });
  const freed = () => stale && soon();
  const release = () => setTimeout(() => { // after the click
    pressed = false;
    freed();
  });
  addEventListener("pointerdown", () => { pressed = true; });
  addEventListener("pointerup", release);
  addEventListener("pointercancel", release);
  document.addEventListener("selectionchange", () => getSelection().isCollapsed && freed());
  addEventListener("focusout", freed);
  addEventListener("close", freed, true); // of a dialog: it does not bubble
  addEventListener("pagehide", () => source?.close());
  if (!document.hidden) open();
}
