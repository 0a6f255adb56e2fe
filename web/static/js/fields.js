// Fields of a form: what they say as JSON. What their attributes mean is told in forms.js.

/** What a field says, as the API takes it. */
export function valueOf(field) {
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

/** The fields of a form as an object; not the one named `leave`. */
export function bodyOf(form, leave) {
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

/** The first field of a name. */
export function fieldOf(form, name) {
  const found = form.elements[name];
  return found instanceof RadioNodeList ? found[0] : found;
}
