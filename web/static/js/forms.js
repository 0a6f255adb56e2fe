// A form with data-call="METHOD /path" is a call of the admin API with the form's fields as JSON.
//   a name with a dot, such as "settings.url", is a field of an object
//   data-type on a field: "list" (words between commas), "number", "seconds-days", "map" (lines of key = value); a checkbox
//     is true or false, or with "choice" one of the values of a list
//   data-call on a button of it: that call instead, with data-result of the button, and without the field data-leave
//   data-omit on a field: leave it out when it is empty
//   data-done on the form: where to go afterwards ("" stays and renews the page); data-message: what to say then
//   data-result on the form: the id of the dialog that shows the answer: [data-answer] a value, [data-answer-rows] a list,
//     a copy of the <template data-row> for each, with its values in [data-cell]
import { call } from "./api.js";
import { renew } from "./live.js";
import { showTimes } from "./times.js";
import { toast, toastLater } from "./toasts.js";

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  switch (field.dataset.type) {
    case "list": return field.value.split(",").map((word) => word.trim()).filter(Boolean);
    case "number": return Number(field.value);
    case "map": return Object.fromEntries(field.value.split("\n").filter((line) => line.trim()).map((line) => {
      const [key, ...rest] = line.split("=");
      return [key.trim(), rest.join("=").trim()];
    }));
    case "seconds-days": return Math.round(Number(field.value) * 86400);
    default: return field.value;
  }
}

function bodyOf(form, leave) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || field.name === leave || (field.dataset.omit !== undefined && field.value === "")) continue;
    const path = field.name.split(".");
    const last = path.pop();
    const place = path.reduce((inside, name) => (inside[name] ??= {}), body);
    if (field.dataset.type === "choice") {
      place[last] ??= [];
      if (field.checked) place[last].push(field.value);
    } else place[last] = valueOf(field);
  }
  return Object.keys(body).length ? body : undefined;
}

function fieldOf(form, name) {
  const found = form.elements[name];
  return found instanceof RadioNodeList ? found[0] : found;
}

function showErrors(form, error) {
  const general = form.querySelector(".form-error");
  const left = [];
  for (const [name, reason] of Object.entries(error.fields || {})) {
    const field = fieldOf(form, name);
    const place = field && form.querySelector(`[data-error-of="${CSS.escape(name)}"]`);
    if (!place) { left.push(`${name}: ${reason}`); continue; }
    place.textContent = reason;
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
  const named = Object.keys(error.fields || {}).length > 0;
  const about = !named && form.querySelector(`[data-error-code~="${CSS.escape(error.code || "-")}"]`);
  if (about) {
    about.textContent = error.message;
    const field = fieldOf(form, about.dataset.errorOf);
    field.setAttribute("aria-invalid", "true");
    field.focus();
  } else if (general) general.textContent = named ? left.join("; ") : error.message;
  else toast(error.message, { bad: true });
}

function clearErrors(form) {
  for (const place of form.querySelectorAll(".error, .form-error")) place.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

const options = (field) => [...(field.options || [])];

function untouched(field) {
  return field.options ? options(field).find((one) => one.defaultSelected)?.selected : field.value === field.defaultValue;
}

function setDefault(field, value) {
  field.value = value;
  if (field.options) for (const one of options(field)) one.defaultSelected = one.value === value;
  else field.defaultValue = value;
}

const initial = (field) => (field.options ? options(field).find((one) => one.defaultSelected)?.value : field.defaultValue);

// Somebody else was faster: what they changed is shown, what was typed here is kept, and the person decides.
async function showTheirs(form) {
  const theirs = await call("GET", form.dataset.read);
  const [taken, contested] = [[], []];
  for (const field of form.elements) {
    if (!field.name || field.name === "revision") continue;
    const value = Array.isArray(theirs[field.name]) ? theirs[field.name].join(", ") : String(theirs[field.name]);
    if (value === initial(field)) continue;
    (untouched(field) ? taken : contested).push(`${field.name} is now “${value}”`);
    if (untouched(field)) setDefault(field, value);
  }
  form.elements.revision.value = theirs.revision;
  const shown = [...taken, ...contested].join("; ") || "nothing that this form shows";
  const rest = contested.length
    ? "What you typed there is still in the form: save again to put it in place of theirs, or load the page to keep theirs."
    : "It is in the form now, beside what you typed: save again to save yours as well.";
  form.querySelector(".form-error").textContent = `Somebody changed this meanwhile: ${shown}. ${rest}`;
}

function showRows(dialog, answer) {
  for (const place of dialog.querySelectorAll("[data-answer-rows]")) {
    const template = dialog.querySelector(`template[data-row="${place.dataset.answerRows}"]`);
    place.replaceChildren(...answer[place.dataset.answerRows].map((item) => {
      const row = template.content.cloneNode(true);
      for (const cell of row.querySelectorAll("[data-cell]")) {
        const value = item[cell.dataset.cell];
        cell.textContent = cell.dataset[value] ?? String(value ?? "");
      }
      return row;
    }));
  }
}

function showResult(form, id, answer) {
  const dialog = document.getElementById(id);
  for (const place of dialog.querySelectorAll("[data-answer]")) {
    const value = String(answer[place.dataset.answer] ?? "");
    if (place.tagName === "TIME") place.dateTime = value;
    else if (place.dataset[value] !== undefined) place.textContent = place.dataset[value];
    else if (place.dataset.copy !== undefined) place.dataset.copy = value;
    else place.textContent = value;
  }
  showRows(dialog, answer);
  showTimes(dialog);
  const around = form.closest("dialog");
  const tried = id !== form.dataset.result; // nothing is saved: what was typed stays
  if (!tried) around?.close();
  dialog.showModal();
  dialog.addEventListener("close", () => { if (!tried) form.reset(); renew(); }, { once: true });
}

async function submit(form, pressed) {
  const button = pressed?.dataset.call ? pressed : form.querySelector("button:not([type]):not([data-call])");
  const [method, path] = (button.dataset.call || form.dataset.call).split(" ");
  const result = button.dataset.call ? button.dataset.result : form.dataset.result;
  clearErrors(form);
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await call(method, path, method === "DELETE" ? undefined : bodyOf(form, button.dataset.leave) ?? {});
    if (result) return showResult(form, result, answer);
    form.closest("dialog")?.close();
    if (form.dataset.done) {
      if (form.dataset.message) toastLater(form.dataset.message);
      location.assign(form.dataset.done);
      return;
    }
    if (form.dataset.message) toast(form.dataset.message);
    if (form.dataset.reset !== undefined) form.reset();
    if (answer?.revision && form.elements.revision) form.elements.revision.value = answer.revision;
    renew();
  } catch (error) {
    if (error.code === "stale_revision" && form.dataset.read) await showTheirs(form).catch((failed) => showErrors(form, failed));
    else showErrors(form, error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Bind all forms, those too that come later. */
export function bindForms() {
  document.addEventListener("submit", (event) => {
    if (!event.target.dataset.call) return;
    event.preventDefault();
    submit(event.target, event.submitter);
  });
}
