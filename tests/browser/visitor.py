"""A person with a browser."""

import os
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.harness.node import PASSWORD, NodeProcess

DESKTOP = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}


class Visitor:
    """One browser window with cookies of its own."""

    def __init__(self, browser: Browser, *, phone: bool = False, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.expected: list[str] = []  #: parts of console lines that belong to the test
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        self.base = ""

    def _heard(self, message: ConsoleMessage) -> None:
        known = any(part in f"{message.text} {message.location}" for part in self.expected)
        if message.type in {"error", "warning"} and not known:
            self.complaints.append(f"{message.type}: {message.text}")

    def go(self, path: str) -> None:
        """Open a page of the node."""
        self.page.goto(self.base + path)

    def sign_in(self, node: NodeProcess, name: str = "admin", password: str = PASSWORD) -> None:
        """Open the node's first page and sign in."""
        self.base = node.url
        self.go("/")
        self.page.get_by_label("Account").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.locator("#side")).to_be_attached()

    def menu(self, name: str) -> None:
        """Choose a page in the navigation."""
        navigation = self.page.get_by_role("navigation", name="Pages")
        navigation.get_by_role("link", name=name, exact=True).click()

    def drag(self, *files: Path) -> None:
        """Drag files from outside onto the drop zone, as the operating system would."""
        box = self.page.locator("#drop").bounding_box()
        assert box is not None
        devtools = self.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            devtools.send(
                "Input.dispatchDragEvent",
                {
                    "type": kind,
                    "x": box["x"] + box["width"] / 2,
                    "y": box["y"] + box["height"] / 2,
                    "data": {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1},
                },
            )

    def slow_down(self, bytes_a_second: float) -> None:
        """Limit what the browser sends; 0 ends the limit."""
        devtools = self.context.new_cdp_session(self.page)
        devtools.send("Network.enable")
        limit = bytes_a_second or -1
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": limit}
        devtools.send("Network.emulateNetworkConditions", conditions)

    def upload_row(self, file: Path) -> Any:
        """The row of an upload."""
        return self.page.locator(f'.upload[data-file="{file.name}"]')

    def percent(self, file: Path) -> int:
        """How far an upload is."""
        match = re.search(r"\((\d+) %\)", self.upload_row(file).inner_text())
        return int(match[1]) if match else 0

    def show(self, name: str) -> None:
        """Keep a picture of the whole page, if somebody wants to look: ODS_TEST_SCREENSHOTS is a directory."""
        directory = os.environ.get("ODS_TEST_SCREENSHOTS")
        if directory:
            self.page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)

    def close(self) -> None:
        """Close the window."""
        self.context.close()
