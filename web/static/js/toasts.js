// Short messages in the corner; a screen reader says them.

/** Show a message; a bad one stays until it is closed. */
export function toast(text, { bad = false } = {}) {
  const item = document.createElement("div");
  item.className = bad ? "toast bad" : "toast";
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => item.remove());
  item.append(words, close);
  document.getElementById("toasts").append(item);
  if (!bad) setTimeout(() => item.remove(), 6000);
}

/** Show a message on the page that is loaded next. */
export function toastLater(text) {
  try { sessionStorage.setItem("ods-toast", text); } catch { /* it is only a courtesy */ }
}

try {
  const waiting = sessionStorage.getItem("ods-toast");
  if (waiting) {
    sessionStorage.removeItem("ods-toast");
    toast(waiting);
  }
} catch { /* as above */ }
