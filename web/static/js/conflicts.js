// Somebody else changed a thing while its form was open: what they changed is shown, what was typed here is kept, and
// the person decides. The form names with data-read where to read the thing, and with data-stamp the field that holds
// its revision.
import { call } from "./api.js";
import { valueOf } from "./fields.js";

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const at = (thing, path) => path.split(".").reduce((inside, name) => inside?.[name], thing);

// The fields of a form by name. What is never shown, such as a secret, cannot be compared.
function groups(form) {
  const found = new Map();
  for (const field of form.elements) {
    if (!field.name || field.name === form.dataset.stamp || field.type === "password" || field.dataset.sealed !== undefined) continue;
    found.set(field.name, [...(found.get(field.name) ?? []), field]);
  }
  return found;
}

// What a field would say if nobody had touched it.
function asItCame(field) {
  const copy = field.cloneNode(true);
  if (copy.type === "checkbox") copy.checked = field.defaultChecked;
  else if (copy.options) copy.value = [...field.options].find((one) => one.defaultSelected)?.value ?? field.options[0]?.value;
  else copy.value = field.defaultValue;
  return copy;
}

function value(fields) {
  if (fields[0].dataset.type !== "choice") return valueOf(fields[0]);
  return fields.filter((field) => field.checked).map((field) => field.value).sort();
}

function write(fields, theirs) {
  for (const field of fields) {
    if (field.type === "checkbox") {
      field.checked = field.defaultChecked = field.dataset.type === "choice" ? theirs.includes(field.value) : theirs;
    } else if (field.options) {
      field.value = theirs;
      for (const one of field.options) one.defaultSelected = one.value === theirs;
    } else {
      field.value = field.defaultValue = field.dataset.type === "map"
        ? Object.entries(theirs).map(([name, one]) => `${name} = ${one}`).join("\n")
        : Array.isArray(theirs) ? theirs.join(", ") : String(theirs);
    }
  }
}

function words(value) {
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.join(", ") || "nothing";
  return typeof value === "object" ? JSON.stringify(value) : `“${value}”`;
}

function labelOf(form, fields) {
  const field = fields[0];
  const label = fields.length > 1 ? field.closest("fieldset")?.querySelector("legend") : field.labels?.[0];
  return label?.textContent.trim() || field.name;
}

/** Read the thing anew, and say what somebody else made of it. */
export async function showTheirs(form) {
  const theirs = await call("GET", form.dataset.read);
  const [taken, contested] = [[], []];
  for (const [name, fields] of groups(form)) {
    let now = at(theirs, name);
    if (now === undefined) continue;
    if (fields[0].dataset.type === "choice") now = [...now].sort();
    const before = value(fields.map(asItCame));
    if (same(now, before)) continue;
    const mine = value(fields);
    (same(mine, before) || same(mine, now) ? taken : contested).push(`${labelOf(form, fields)} is now ${words(now)}`);
    if (same(mine, before)) write(fields, now);
  }
  form.elements[form.dataset.stamp].value = theirs[form.dataset.stamp];
  const shown = [...taken, ...contested].join("; ") || "nothing that this form shows";
  const rest = contested.length
    ? "What you typed there is still in the form: save again to put it in place of theirs, or load the page to keep theirs."
    : "It is in the form now, beside what you typed: save again to save yours as well.";
  form.querySelector(".form-error").textContent = `Somebody changed this meanwhile: ${shown}. ${rest}`;
}
