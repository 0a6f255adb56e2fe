// The upload page: files are dropped or chosen, two are sent at a time, and each has its own row.
import { toast } from "./toasts.js";
import { Upload } from "./upload.js";

const AT_ONCE = 2;
const UNITS = ["bytes", "KB", "MB", "GB", "TB"];
const ZIP = "If it is a bundle, zip it first (in Finder: Compress)."; // a bundle is a folder that looks like a file
const page = document.querySelector("[data-uploads]");
const form = document.getElementById("options");
const list = document.getElementById("queue-list");
const uploads = [];

function size(count) {
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < UNITS.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

function left(upload) {
  if (upload.state !== "sending" || upload.rate < 1) return "";
  const seconds = Math.round((upload.file.size - upload.sent) / upload.rate);
  const time = seconds < 90 ? `${seconds} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  return `, ${size(upload.rate)}/s, ${time} left`;
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function rowFor(file) {
  const parts = {
    badge: element("span", { className: "badge" }),
    bar: element("progress", { max: file.size || 1, value: 0 }),
    facts: element("span", { className: "muted small" }),
    message: element("p", { className: "small" }),
    go: element("button", { type: "button", className: "small" }),
    end: element("button", { type: "button", className: "small", textContent: "Cancel" }),
  };
  parts.bar.setAttribute("aria-label", file.name);
  parts.message.setAttribute("role", "status");
  const top = element("div", { className: "row apart" }, element("span", { className: "name", textContent: file.name }), parts.badge);
  const bottom = element("div", { className: "row apart" }, parts.facts, element("span", { className: "row" }, parts.go, parts.end));
  parts.row = element("div", { className: "upload" }, top, parts.bar, bottom, parts.message);
  parts.row.setAttribute("role", "listitem");
  parts.row.dataset.file = file.name;
  return parts;
}

const LOOKS = {
  waiting: ["waits", ""], sending: ["sending", "busy"], retrying: ["interrupted", "warn"], paused: ["paused", ""],
  done: ["complete", "good"], failed: ["refused", "bad"], ended: ["cancelled", ""],
};

function show(upload, parts) {
  const [word, kind] = LOOKS[upload.state];
  parts.row.dataset.state = upload.state;
  parts.badge.textContent = word;
  parts.badge.className = `badge ${kind}`;
  parts.bar.value = upload.file.size ? upload.sent : upload.state === "done" ? 1 : 0;
  parts.bar.className = upload.state === "done" ? "good" : upload.state === "retrying" ? "warn" : "";
  const percent = upload.file.size ? Math.floor((100 * upload.sent) / upload.file.size) : 100;
  parts.facts.textContent = upload.state === "failed" && !upload.file.size ? "" : `${size(upload.sent)} of ${size(upload.file.size)} (${percent} %)${left(upload)}`;
  if (parts.message.textContent !== upload.message) parts.message.textContent = upload.message;
  if (upload.state === "done" && upload.package) {
    parts.message.append(" ", element("a", { href: `/ui/packages/${encodeURIComponent(upload.package)}`, textContent: "Show the package" }));
  }
  const running = upload.state === "sending" || upload.state === "retrying";
  parts.go.hidden = !running && upload.state !== "paused" && upload.state !== "failed";
  parts.go.textContent = running ? "Pause" : upload.state === "failed" ? "Try again" : "Resume";
  parts.end.hidden = upload.state === "done" || upload.state === "ended";
}

// A file that is not sent at all: it gets its line, which says why.
function refuse(file, message) {
  const parts = rowFor(file);
  show({ file, state: "failed", message, sent: 0, rate: 0 }, parts);
  parts.bar.hidden = parts.go.hidden = true;
  parts.end.textContent = "Remove";
  parts.end.addEventListener("click", () => parts.row.remove());
  list.append(parts.row);
  document.getElementById("queue").hidden = false;
}

function startNext() {
  const running = uploads.filter((upload) => upload.state === "sending" || upload.state === "retrying").length;
  for (const upload of uploads.filter((one) => one.state === "waiting").slice(0, Math.max(0, AT_ONCE - running))) start(upload);
}

async function start(upload) {
  await upload.run();
  startNext();
}

function add(file) {
  const most = Number(page.dataset.most);
  if (!file.size) return refuse(file, `The file is empty. ${ZIP}`);
  if (file.size > most) return refuse(file, `The file is larger than the ${size(most)} that this node takes.`);
  if (uploads.some((one) => one.file.name === file.name && !["done", "failed", "ended"].includes(one.state))) {
    return toast(`${file.name} is in the list already.`);
  }
  const parts = rowFor(file);
  const { stage, tags, notes, replace } = form.elements;
  const options = { stage: stage.value, tags: tags.value, notes: notes.value, replace: replace.checked };
  const upload = new Upload(file, options, (changed) => show(changed, parts));
  for (const row of document.querySelectorAll(`[data-upload="${CSS.escape(upload.id || "-")}"]`)) row.remove();
  parts.go.addEventListener("click", () => {
    if (upload.state === "sending" || upload.state === "retrying") return upload.pause();
    if (upload.state === "failed") {
      upload.options.replace = form.elements.replace.checked;
      upload.forget();
    }
    upload.known = false;
    return start(upload);
  });
  parts.end.addEventListener("click", () => {
    if (upload.sent > 0 && parts.end.dataset.sure === undefined) { // what has arrived would be deleted: ask once
      parts.end.dataset.sure = "";
      parts.end.textContent = `Cancel and delete ${size(upload.sent)}`;
      parts.end.className = "small danger";
      return;
    }
    upload.end().then(startNext);
  });
  list.append(parts.row);
  document.getElementById("queue").hidden = false;
  uploads.push(upload);
  show(upload, parts);
  return startNext();
}

const drop = document.getElementById("drop");
addEventListener("dragover", (event) => {
  event.preventDefault(); // a file that misses the box must not replace the page
  drop.classList.toggle("over", event.dataTransfer.types.includes("Files"));
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  for (const item of event.dataTransfer.items) {
    if (item.webkitGetAsEntry?.()?.isDirectory) refuse({ name: item.webkitGetAsEntry().name, size: 0 }, `This is a folder. ${ZIP} Or drop the files that are in it.`);
    else if (item.kind === "file") add(item.getAsFile());
  }
});
document.getElementById("files").addEventListener("change", (event) => {
  for (const file of event.target.files) add(file);
  event.target.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeunload", (event) => {
  if (uploads.some((upload) => upload.state === "sending" || upload.state === "retrying")) event.preventDefault();
});
