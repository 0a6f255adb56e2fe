// A form with data-call="METHOD /path" is a call of the admin API with the form's fields as JSON.
//   a name with a dot, such as "settings.url", is a field of an object
//   data-type on a field: "list" (words between commas), "number", "seconds-days", "map" (lines of key = value); a checkbox
//     is true or false, or with "choice" one of the values of a list
//   data-call on a button of it: that call instead, with data-result of the button, and without the field data-leave
//   data-omit on a field: leave it out when it is empty
//   data-match on the form: the ETag of what it is about; what has another one is left alone
//   data-read and data-stamp on the form: what to do when somebody else was faster, see conflicts.js
//   data-job on the form: the call begins a job; what to say when it is done. How it fails is said too.
//   data-done on the form: where to go afterwards ("" stays and renews the page); data-message: what to say then
//   data-result on the form: the id of the dialog that shows the answer: [data-answer] a value, [data-answer-rows] a list,
//     a copy of the <template data-row> for each, with its values in [data-cell]
import { call } from "./api.js";
import { showTheirs } from "./conflicts.js";
import { bodyOf, fieldOf } from "./fields.js";
import { renew } from "./live.js";
import { showTimes } from "./times.js";
import { toast, toastLater } from "./toasts.js";

// A screen reader reads the reason with the field.
function mark(field, place, reason) {
  place.textContent = reason;
  place.id ||= `error-of-${field.id || field.name}`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", place.id);
  field.focus();
}

function showErrors(form, error) {
  const general = form.querySelector(".form-error");
  const left = [];
  for (const [name, reason] of Object.entries(error.fields || {})) {
    const field = fieldOf(form, name);
    const place = field && form.querySelector(`[data-error-of="${CSS.escape(name)}"]`);
    if (!place) { left.push(`${name}: ${reason}`); continue; }
    mark(field, place, reason);
  }
  const named = Object.keys(error.fields || {}).length > 0;
  const about = !named && form.querySelector(`[data-error-code~="${CSS.escape(error.code || "-")}"]`);
  if (about) {
    mark(fieldOf(form, about.dataset.errorOf), about, error.message);
  } else if (general) general.textContent = named ? left.join("; ") : error.message;
  else toast(error.message, { bad: true });
}

function clearErrors(form) {
  for (const place of form.querySelectorAll(".error, .form-error")) place.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
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

// What the fields say is saved: from here on it counts as what the page came with.
function keep(form) {
  for (const field of form.elements) {
    if (field.options) for (const one of field.options) one.defaultSelected = one.selected;
    else if (field.type === "checkbox") field.defaultChecked = field.checked;
    else if ("defaultValue" in field) field.defaultValue = field.value;
  }
}

// Say how a job ended, as long as the page is open.
async function followJob(id, done) {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    const job = await call("GET", `/jobs/${id}`).catch((error) => (error.status ? null : { state: "doing" }));
    if (!job) return; // it went with the list of old jobs, or may not be seen
    if (job.state === "todo" || job.state === "doing") continue;
    if (job.state === "done") toast(done);
    else toast(job.error.replace(/^[A-Z]\w+: /, "") || `The job is ${job.state}.`, { bad: true });
    renew();
    return;
  }
}

async function submit(form, pressed) {
  const button = pressed?.dataset.call ? pressed : form.querySelector("button:not([type]):not([data-call])");
  const [method, path] = (button.dataset.call || form.dataset.call).split(" ");
  const result = button.dataset.call ? button.dataset.result : form.dataset.result;
  clearErrors(form);
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await call(method, path, method === "DELETE" ? undefined : bodyOf(form, button.dataset.leave) ?? {}, form.dataset.match);
    if (result) return showResult(form, result, answer);
    form.closest("dialog")?.close();
    if (form.dataset.done) {
      if (form.dataset.message) toastLater(form.dataset.message);
      location.assign(form.dataset.done);
      return;
    }
    if (form.dataset.message) toast(form.dataset.message);
    if (form.dataset.reset !== undefined) form.reset();
    const stamp = form.dataset.stamp;
    if (stamp && answer?.[stamp]) {
      form.elements[stamp].value = answer[stamp];
      keep(form);
    }
    if (form.dataset.job && answer?.job) followJob(answer.job.id, form.dataset.job);
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
