// One resumable upload by tus 1.0.0 (https://tus.io/protocols/resumable-upload): create, then PATCH piece by piece.
// Whatever breaks, the node is asked how much it has, and the upload goes on from there.
import { call, CallFailed, xsrf } from "./api.js";
import { signInAgain } from "./session.js";
import { sha256 } from "./sha256.js";

const PIECE = 8 * 1024 * 1024;
const WAITS_S = [1, 2, 4, 8, 15];
const SETTLED = new Set([400, 403, 404, 409, 410, 412, 413, 415, 422, 507]);
const MISMATCH = 460;
const SILENCE_MS = 90_000; // a connection that died while the lid was closed may never say so
const ANSWER_MS = 300_000; // the last piece is answered when the whole file is checked

const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const text64 = (text) => base64(new TextEncoder().encode(text));

function keyOf(file) {
  const account = document.querySelector('meta[name="account"]').content;
  return `ods-upload:${account}:${file.name}:${file.size}:${file.lastModified}`;
}

function recall(file) {
  try { return localStorage.getItem(keyOf(file)); } catch { return null; }
}

function remember(file, id) {
  try {
    if (id) localStorage.setItem(keyOf(file), id);
    else localStorage.removeItem(keyOf(file));
  } catch { /* then it is only resumed while this page is open */ }
}

/** An upload. `onchange` is called when `state`, `sent`, `message` or `rate` change. */
export class Upload {
  constructor(file, options, onchange) {
    this.file = file;
    this.options = options; // stage, tags (text), notes, replace
    this.onchange = onchange;
    this.state = "waiting"; // waiting, sending, paused, retrying, done, failed, ended
    this.sent = 0; // bytes that the node has, and those under way
    this.message = "";
    this.rate = 0; // bytes a second
    this.package = "";
    this.effect = ""; // created, replaced, changed, repaired or unchanged
    this.id = recall(file);
    this.request = null;
    this.wake = null;
  }

  set(state, message = "") {
    this.state = state;
    this.message = message;
    this.onchange(this);
  }

  pause() {
    if (this.state !== "sending" && this.state !== "retrying") return;
    this.set("paused", "Paused. What has arrived stays on the node.");
    this.request?.abort();
    this.wake?.();
  }

  async end() {
    this.set("ended", "Cancelled.");
    this.request?.abort();
    this.wake?.();
    remember(this.file, null);
    if (this.id) await this.send("DELETE", `/api/v1/uploads/${this.id}`).catch(() => {});
  }

  /** Send until it is complete, paused or refused. */
  async run() {
    this.set("sending");
    let failures = 0;
    while (this.state === "sending" || this.state === "retrying") {
      const before = this.sent;
      try {
        await this.step();
        failures = 0;
      } catch (error) {
        if (this.state !== "sending" && this.state !== "retrying") return; // paused or ended by the person
        if (error.status === 401) {
          this.set("retrying", "Your session has ended. Sign in, and the upload goes on.");
          await signInAgain();
          continue;
        }
        if (error.status === 404 && this.id) { // it expired, or was ended elsewhere
          this.forget();
          continue;
        }
        if (SETTLED.has(error.status) && error.code !== "offset_mismatch") {
          this.set("failed", error.message.replace(" (--replace, ?replace=true)", "")); // there is a box for it
          return;
        }
        failures = this.sent > before ? 1 : failures + 1;
        const wait = WAITS_S[Math.min(failures, WAITS_S.length) - 1];
        const why = error.status === 0 ? "The node cannot be reached" : error.status === MISMATCH ? "A piece was damaged on the way" : error.message;
        this.set("retrying", `${why.replace(/\.$/, "")}. Trying again in ${wait} s.`);
        this.known = false;
        await this.sleep(wait);
      }
    }
  }

  async step() {
    if (!this.id) await this.create();
    else if (!this.known) await this.ask();
    if (this.state === "retrying") this.set("sending");
    if (this.package) return await this.finish();
    const end = Math.min(this.file.size, this.offset + PIECE);
    const piece = this.file.slice(this.offset, end);
    const headers = { "Content-Type": "application/offset+octet-stream", "Upload-Offset": String(this.offset) };
    headers["Upload-Checksum"] = `sha256 ${base64(await sha256(await piece.arrayBuffer()))}`;
    const answer = await this.send("PATCH", `/api/v1/uploads/${this.id}`, headers, piece);
    this.offset = Number(answer.getResponseHeader("Upload-Offset"));
    this.sent = this.offset;
    this.take(answer);
    this.onchange(this);
    if (this.package) await this.finish();
    return undefined;
  }

  async create() {
    const { stage, tags, notes, replace } = this.options;
    const fields = { filename: this.file.name, stage, tags, notes, replace: String(replace) };
    const metadata = Object.entries(fields).filter(([, value]) => value).map(([name, value]) => `${name} ${text64(value)}`);
    const answer = await this.send("POST", "/api/v1/uploads", { "Upload-Length": String(this.file.size), "Upload-Metadata": metadata.join(",") });
    // Only the id: the node may call itself by another name than this browser does.
    this.id = answer.getResponseHeader("Location").split("/").pop();
    this.offset = 0;
    this.known = true;
    remember(this.file, this.id);
  }

  async ask() {
    const answer = await this.send("HEAD", `/api/v1/uploads/${this.id}`);
    if (answer.getResponseHeader("Upload-Length") !== String(this.file.size)) return this.forget();
    this.offset = Number(answer.getResponseHeader("Upload-Offset"));
    this.sent = this.offset;
    this.take(answer);
    this.known = true;
    return undefined;
  }

  take(answer) {
    this.package = answer.getResponseHeader("ODS-Package") || "";
    this.effect = answer.getResponseHeader("ODS-Effect") || "";
  }

  forget() {
    remember(this.file, null);
    this.id = null;
    this.known = false;
    this.sent = 0;
  }

  async finish() {
    remember(this.file, null);
    this.sent = this.file.size;
    const words = { unchanged: "This exact file is already here.", repaired: "The file was damaged here and is repaired." };
    const said = words[this.effect] || "Complete and checked.";
    const found = await call("GET", `/packages/${this.package}`).catch(() => ({})); // what it says is only a hint
    this.set("done", found.notice ? `${said} ${found.notice}` : said);
  }

  sleep(seconds) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        removeEventListener("online", done);
        this.wake = null;
        resolve();
      };
      const timer = setTimeout(done, seconds * 1000);
      addEventListener("online", done); // the lid is open again
      this.wake = done;
    });
  }

  send(method, address, headers = {}, body = null) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch cannot tell how much of a body was sent
      this.request = request;
      let at = performance.now();
      let last = 0;
      let heard = Date.now(); // goes on while the machine sleeps
      let silence = SILENCE_MS;
      const watch = setInterval(() => Date.now() - heard > silence && request.abort(), 1000);
      request.onloadend = () => clearInterval(watch);
      request.open(method, address);
      request.setRequestHeader("Accept", "application/json");
      request.setRequestHeader("Tus-Resumable", "1.0.0");
      request.setRequestHeader("X-XSRF-Token", xsrf());
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => {
        const now = performance.now();
        heard = Date.now();
        if (!body || now - at < 250) return;
        const rate = ((event.loaded - last) / (now - at)) * 1000;
        this.rate = this.rate ? 0.7 * this.rate + 0.3 * rate : rate;
        [at, last] = [now, event.loaded];
        this.sent = Math.min(this.file.size, this.offset + event.loaded);
        this.onchange(this);
      };
      request.upload.onload = () => { silence = ANSWER_MS; };
      request.onload = () => {
        if (request.status >= 200 && request.status < 300) return resolve(request);
        let problem = {};
        try { problem = JSON.parse(request.responseText); } catch { /* HEAD has no body */ }
        return reject(new CallFailed(request.status, problem));
      };
      request.onerror = request.onabort = () => reject(new CallFailed(0, { detail: "The node cannot be reached." }));
      request.send(body);
    });
  }
}
