// Times are sent in UTC and shown in the viewer's zone.
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

function words(date) {
  const seconds = Math.round((date - Date.now()) / 1000);
  const size = Math.abs(seconds);
  if (size < 60) return relative.format(Math.trunc(seconds / 10) * 10, "second");
  if (size < 3600) return relative.format(Math.trunc(seconds / 60), "minute");
  if (size < 86400) return relative.format(Math.trunc(seconds / 3600), "hour");
  return short.format(date);
}

/** Write every `<time>` below a node in the viewer's zone and words. */
export function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    const passed = element.hasAttribute("data-due") && date < Date.now();
    const text = element.hasAttribute("data-exact") ? exact.format(date) : words(passed ? new Date() : date);
    if (element.textContent !== text) element.textContent = text;
    element.title = full.format(date);
  }
}

for (const field of document.querySelectorAll("[data-zone]")) field.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
setInterval(() => showTimes(document), 20_000);
