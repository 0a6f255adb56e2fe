// A session that has ended while a page was open: sign in again in a dialog, and go on where it was.
let waiting = null;

const TEXT = `
  <h2 id="again-title">Sign in again</h2>
  <p>Your session has ended. What you were doing goes on as soon as you are back.</p>
  <form>
    <p class="form-error" role="alert"></p>
    <div class="field"><label for="again-name">Account</label><input id="again-name" name="name" autocomplete="username" required></div>
    <div class="field"><label for="again-password">Password</label>
      <input id="again-password" name="password" type="password" autocomplete="current-password" required></div>
    <div class="row end"><button class="primary">Sign in</button></div>
  </form>`;

async function signIn(name, password) {
  const first = await fetch("/ui/sign-in", { headers: { Accept: "application/json", "X-XSRF-Token": "" } });
  const { form } = await first.json();
  return fetch("/ui/sign-in", {
    method: "POST",
    headers: { Accept: "application/json", "X-XSRF-Token": form },
    body: new URLSearchParams({ name, password }),
  });
}

function ask() {
  return new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", "again-title");
    dialog.innerHTML = TEXT; // a constant: nothing of anybody's is in it
    const form = dialog.querySelector("form");
    const error = dialog.querySelector(".form-error");
    form.elements.name.value = document.querySelector('meta[name="account"]').content;
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.textContent = "";
      try {
        const answer = await signIn(form.elements.name.value, form.elements.password.value);
        const data = await answer.json();
        if (!answer.ok) {
          error.textContent = data.detail;
          form.elements.password.select();
          return;
        }
        if (data.account !== document.querySelector('meta[name="account"]').content || data.must_change) {
          location.reload(); // somebody else: this page is not theirs
          return;
        }
        document.querySelector('meta[name="xsrf"]').content = data.xsrf;
        for (const field of document.querySelectorAll('form[action="/ui/sign-out"] [name="_xsrf"]')) field.value = data.xsrf;
        dialog.close();
        dialog.remove();
        resolve();
      } catch {
        error.textContent = "The node does not answer. Try again in a moment.";
      }
    });
    document.body.append(dialog);
    dialog.showModal();
    form.elements.password.focus();
  });
}

/** Resolve when the person is signed in again; however many calls ask, there is one dialog. */
export function signInAgain() {
  waiting ??= ask().finally(() => { waiting = null; });
  return waiting;
}
