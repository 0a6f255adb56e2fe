"""Whether a browser stays responsive on the largest pages: how long they take to load, and their longest task.

A task of the page's thread delays whatever the user does meanwhile; up to 100 ms pass for immediate (web.dev/rail).
The browser reports those of more than 50 ms.
"""

import os
import shutil

from playwright.sync_api import Page, sync_playwright

from .cases import Row

LOAD_S = 1.0
TASK_S = 0.1
_WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""
_LOADED = "performance.getEntriesByType('navigation')[0].duration"
#: what a page does when the node says that something changed
_RENEW = """async () => {
  const app = document.querySelector("script[type=module]").src;
  const { renew } = await import(app.replace("app.js", "live.js"));
  const began = performance.now();
  await renew();
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""


def browse(base: str, pages: dict[str, str], cookie: str) -> list[Row]:
    """Load each page and renew it, in Chromium.

    Args:
        base: The node's URL.
        pages: Path and name of each page.
        cookie: A session's cookie, as a header has it.
    """
    path = os.environ.get("ODS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("chromium is missing: apt-get install chromium")
    name, _, value = cookie.partition("=")
    slowest, longest = 0.0, 0.0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = browser.new_context()
        context.add_cookies([{"name": name, "value": value, "url": base}])
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.goto(base + next(iter(pages)))  # the first one pays for the start
        for address, shown in pages.items():
            loaded, renewed, task = _visit(page, base + address)
            print(
                f"  browser {shown:<30} loaded in {loaded * 1000:5.0f} ms, renewed in {renewed * 1000:5.0f} ms, "
                f"longest task {task * 1000:4.0f} ms"
            )
            slowest, longest = max(slowest, loaded, renewed), max(longest, task)
        browser.close()
    return [
        Row(case="browser: slowest page", ours=slowest, rival="", theirs=0.0, target="<= 1 s", met=slowest <= LOAD_S),
        Row(case="browser: longest task", ours=longest, rival="", theirs=0.0, target="<= 0.1 s", met=longest <= TASK_S),
    ]  # fmt: skip


def _visit(page: Page, url: str) -> tuple[float, float, float]:
    """Seconds until a page was loaded, and renewed; and its longest task, 0 if none was long."""
    page.goto(url, wait_until="load")
    page.wait_for_timeout(200)
    loaded = float(page.evaluate(_LOADED))
    renewed = float(page.evaluate(_RENEW))
    return loaded / 1000, renewed / 1000, float(page.evaluate("window.longest")) / 1000
