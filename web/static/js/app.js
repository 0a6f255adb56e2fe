// What every page runs.
import { openDialogs } from "./dialogs.js";
import { bindForms } from "./forms.js";
import { followChanges } from "./live.js";
import { showTimes } from "./times.js";
import { toast } from "./toasts.js";

function bindTheme() {
  const button = document.getElementById("theme");
  if (!button) return;
  const dark = () =>
    (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  name();
  button.addEventListener("click", () => {
    const theme = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("ods-theme", theme); } catch { /* it lasts for this page */ }
    name();
  });
}

function bindMenu() {
  const button = document.getElementById("menu");
  const side = document.getElementById("side");
  const show = (open) => {
    side.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
  };
  button?.addEventListener("click", () => show(!side.classList.contains("open")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !side?.classList.contains("open")) return;
    show(false);
    button.focus();
  });
}

async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not there without TLS
    const area = document.createElement("textarea");
    area.value = text;
    (button.closest("dialog") || document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!done) return toast("The browser did not copy. Select the text and copy it by hand.", { bad: true });
  }
  return toast("Copied.");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
document.addEventListener("change", (event) => {
  if (event.target.closest("form.filters[data-auto]")) event.target.form.requestSubmit();
});

bindTheme();
bindMenu();
openDialogs();
bindForms();
showTimes(document);
followChanges();
if (document.querySelector("[data-uploads]")) import("./upload_page.js");
