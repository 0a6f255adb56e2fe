"""What a browser does without a screen: keeps cookies, sends forms. For whatever needs no script."""

import re
from collections.abc import Mapping
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from .node import PASSWORD, Answer, NodeProcess


class BrowserClient:
    """One person's cookies at one node."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request with the cookies; redirects are not followed."""
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        sent = {**(cookie if self.cookies else {}), **(headers or {})}
        answer = self.node.request(method, path, body, sent, anonymous=True)
        for name, morsel in SimpleCookie(answer.headers.get("set-cookie", "")).items():
            if morsel.value:
                self.cookies[name] = morsel.value
            else:
                self.cookies.pop(name, None)
        return answer

    def get(self, path: str) -> Answer:
        """A page."""
        return self.request("GET", path)

    def form(self, path: str, data: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        """Send a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, urlencode(data).encode(), {**kind, **(headers or {})})

    def form_key(self) -> str:
        """What the sign-in form repeats."""
        match = re.search(r'name="_xsrf" value="([^"]*)"', self.get("/ui/sign-in").body.decode())
        assert match is not None
        return match[1]

    def sign_in(self, name: str, password: str = PASSWORD, *, next: str = "/ui/") -> Answer:
        """Sign in on the page."""
        data = {"name": name, "password": password, "next": next, "_xsrf": self.form_key()}
        return self.form("/ui/sign-in", data)

    def xsrf(self, page: str = "/ui/") -> str:
        """The session's token, from a page."""
        match = re.search(r'<meta name="xsrf" content="([0-9a-f]+)">', self.get(page).body.decode())
        assert match is not None
        return match[1]
