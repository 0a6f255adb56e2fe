// Dialogs: a button with data-opens shows one, data-closes closes it. What destroys may ask for a typed name.

/** Bind all dialogs, those too that come later. */
export function openDialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) document.getElementById(opener.dataset.opens).showModal();
    if (event.target.closest("[data-closes]")) event.target.closest("dialog").close();
  });
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-typed]");
    if (!form || !event.target.classList.contains("typed")) return;
    form.querySelector("button.primary").disabled = event.target.value.trim().normalize() !== form.dataset.typed.normalize();
  });
}
