"""The client for Jamf Pro, against answers made by hand: what goes wrong, and what must not be sent or shown."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from jamf_bridge.jamf import (
    ClientCredentials,
    Field,
    InvalidPath,
    JamfAuthenticationError,
    JamfAuthorizationError,
    JamfBusy,
    JamfConflict,
    JamfError,
    JamfIncomplete,
    JamfInvalid,
    JamfNotFound,
    JamfNotJamf,
    JamfServerError,
    JamfSurprise,
    JamfUnreachable,
    JamfVersion,
    Server,
    SignedUrl,
    UserCredentials,
)
from jamf_bridge.jamf.answers import retry_after
from jamf_bridge.jamf.rsql import matching, quoted
from jamf_bridge.jamf.session import Session
from jamf_bridge.jamf.xml import id_of, to_xml

URL = "https://jamf.example"
TOKEN = {"access_token": "very-secret-token", "token_type": "Bearer", "scope": "x", "expires_in": 60}
Reply = Callable[[httpx.Request], httpx.Response]


class World:
    """A server whose answers are given, in order, by path; the last one stays."""

    def __init__(self, **replies: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 1000.0
        self.replies: dict[str, list[Any]] = {"/api/v1/oauth/token": [TOKEN]}

    def on(self, path: str, *replies: Any) -> "World":
        self.replies[path] = list(replies)
        return self

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        replies = self.replies.get(request.url.path)
        if not replies:
            return httpx.Response(404, json={"httpStatus": 404, "errors": []})
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            reply = reply(request)
        return reply if isinstance(reply, httpx.Response) else httpx.Response(200, json=reply)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def run(self, work: Callable[[Server], Awaitable[None]], **options: Any) -> None:
        async def go() -> None:
            credentials = options.pop(
                "credentials", ClientCredentials("id", "client-secret", clock=lambda: self.now)
            )
            server = Server(
                URL, credentials=credentials, transport=httpx.MockTransport(self.answer), **options
            )
            server._session._sleep = self.sleep
            async with server:
                await work(server)

        asyncio.run(go())

    def calls(self, path: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.path == path]


def problem(status: int, code: str = "", field: str = "") -> httpx.Response:
    errors = [{"code": code, "field": field, "description": "why", "id": None}] if code else []
    return httpx.Response(status, json={"httpStatus": status, "errors": errors})


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (problem(400, "INVALID_FIELD", "priority"), JamfInvalid, "priority"),
        (problem(400, "DUPLICATE_FIELD", "packageName"), JamfConflict, "packageName"),
        (problem(403), JamfAuthorizationError, "Read Packages"),
        (problem(404), JamfNotFound, "/api/v1/packages/7"),
        (httpx.Response(404, text="<html>nginx</html>"), JamfNotJamf, "URL"),
        (httpx.Response(200, text="<!DOCTYPE html><title>Login</title>"), JamfNotJamf, "sign-in page"),
        (httpx.Response(200, text="{"), JamfSurprise, "JSON"),
        (httpx.Response(200, json=[]), JamfSurprise, "object"),
        (httpx.Response(302, headers={"Location": "https://sso.example"}), JamfNotJamf, "redirection"),
        (problem(500, "SYSTEM_EXCEPTION"), JamfServerError, "SYSTEM_EXCEPTION"),
        (httpx.Response(503, headers={"Retry-After": "7"}), JamfBusy, "busy"),
        (httpx.ConnectError("no"), JamfUnreachable, "jamf.example"),
        (httpx.ReadTimeout("slow"), JamfUnreachable, "in time"),
    ],
)
def test_what_went_wrong_is_said(reply: Any, error: type[JamfError], words: str) -> None:
    world = World().on("/api/v1/packages/7", reply)

    async def work(server: Server) -> None:
        with pytest.raises(error) as caught:
            await server.Packages().recordWithId(7)
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)

    world.run(work)


def test_a_refused_token_is_renewed_once() -> None:
    world = World().on("/api/v1/packages/7", problem(401), {"id": "7", "packageName": "x"})

    async def work(server: Server) -> None:
        assert (await server.Packages().recordWithId(7)).name == "x"
        world.on("/api/v1/packages/8", problem(401))
        with pytest.raises(JamfAuthenticationError):
            await server.Packages().recordWithId(8)

    world.run(work)
    assert len(world.calls("/api/v1/packages/7")) == 2
    assert len(world.calls("/api/v1/packages/8")) == 2


def test_one_renewal_for_all_and_before_the_token_ends() -> None:
    world = World().on("/api/v1/jamf-pro-version", {"version": "11.25.2-t1"})

    async def work(server: Server) -> None:
        await asyncio.gather(*(server.version() for _ in range(20)))
        assert len(world.calls("/api/v1/oauth/token")) == 1
        world.now += 47  # of 60 seconds: more than a fifth is left
        await server.version()
        assert len(world.calls("/api/v1/oauth/token")) == 1
        world.now += 2
        await server.version()
        assert len(world.calls("/api/v1/oauth/token")) == 2

    world.run(work)


def test_an_older_server_is_signed_in_to_at_the_older_path() -> None:
    world = World().on("/api/v1/oauth/token", problem(404)).on("/api/oauth/token", TOKEN)
    world.on("/api/v1/jamf-pro-version", {"version": "11.5.1"})

    async def work(server: Server) -> None:
        assert await server.version() == (11, 5, 1)

    world.run(work)


@pytest.mark.parametrize("status", [400, 401])
def test_wrong_credentials_name_the_field(status: int) -> None:
    world = World().on("/api/v1/oauth/token", httpx.Response(status, json={"error": "invalid_client"}))

    async def work(server: Server) -> None:
        with pytest.raises(JamfAuthenticationError) as caught:
            await server.version()
        assert (caught.value.field, caught.value.codes) == ("client_id", ("invalid_client",))
        assert "client-secret" not in str(caught.value)

    world.run(work)


def test_a_user_token_is_kept_alive_and_ended() -> None:
    world = World().on("/api/v1/jamf-pro-version", {"version": "11.30.1"})
    until = "2099-01-01T00:00:00.000Z"
    world.on("/api/v1/auth/token", {"token": "first", "expires": until})
    world.on("/api/v1/auth/keep-alive", {"token": "second", "expires": until})
    world.on("/api/v1/auth/invalidate-token", httpx.Response(204))
    credentials = UserCredentials("jane", "pass-word", clock=lambda: world.now)

    async def work(server: Server) -> None:
        await server.version()
        assert credentials._token is not None
        world.now = credentials._token.until - 10
        await server.version()

    world.run(work, credentials=credentials)
    assert [r.headers["Authorization"] for r in world.calls("/api/v1/jamf-pro-version")] == [
        "Bearer first",
        "Bearer second",
    ]
    assert world.calls("/api/v1/auth/invalidate-token")[0].headers["Authorization"] == "Bearer second"


def test_only_what_may_be_repeated_is_repeated() -> None:
    world = World().on("/api/v1/packages", problem(502))

    async def work(server: Server) -> None:
        with pytest.raises(JamfServerError):
            await server.Packages().create({"packageName": "x", "fileName": "x.pkg"})
        assert len(world.calls("/api/v1/packages")) == 1, "it may have been created"
        with pytest.raises(JamfServerError):
            await server.Packages().ids()
        assert len(world.calls("/api/v1/packages")) == 6

    world.run(work)


def test_a_busy_server_is_given_its_time() -> None:
    busy = httpx.Response(429, headers={"Retry-After": "3"})
    world = World().on("/api/v1/packages", busy, busy, lambda _: httpx.Response(201, json={"id": "5"}))
    world.on("/api/v1/packages/5", problem(404), {"id": "5", "packageName": "x"})

    async def work(server: Server) -> None:
        assert (await server.Packages().create({"packageName": "x", "fileName": "x.pkg"})).id == "5"

    world.run(work)
    assert world.waits[:2] == [3.0, 3.0]


@pytest.mark.parametrize("text", ["²", "-1", "soon", "", "99999999999999", "\u0661"])
def test_waits_that_cannot_be_read(text: str) -> None:
    assert retry_after({"retry-after": text}) is None


def test_saving_sends_only_what_changed_over_what_is_there_now() -> None:
    first = {
        "id": "7",
        "packageName": "A",
        "notes": "old",
        "priority": 10,
        "size": "5",
        "cloudTransferStatus": "",
    }
    world = World().on("/api/v1/packages/7", first, {**first, "priority": 3})

    async def work(server: Server) -> None:
        package = await server.Packages().recordWithId(7)
        await package.save()
        assert len(world.calls("/api/v1/packages/7")) == 1, "nothing changed, nothing is sent"
        package.set_path("notes", "new")
        await package.save()

    world.run(work)
    put = next(request for request in world.requests if request.method == "PUT")
    assert json.loads(put.content) == {"packageName": "A", "notes": "new", "priority": 3}


class Pages:
    """Answers a list in pages; `change` is called with each request before it is answered."""

    def __init__(
        self, count: int, change: Callable[["Pages", int], None] = lambda _pages, _number: None
    ) -> None:
        self.ids = [str(number) for number in range(1, count + 1)]
        self.most = 10_000
        self.total = 0  #: another count than the true one
        self.by_request = False  #: pages are counted by the size that was asked for, whatever is given
        self.empty = 0  #: so many answers have no records
        self.asked: list[int] = []
        self._change = change

    def __call__(self, request: httpx.Request) -> httpx.Response:
        page, size = int(request.url.params["page"]), int(request.url.params["page-size"])
        self.asked.append(page)
        self._change(self, len(self.asked))
        given = min(size, self.most)
        first = page * (size if self.by_request else given)
        rows = [{"id": id} for id in self.ids[first : first + given]]
        if self.empty:
            self.empty, rows = self.empty - 1, []
        return httpx.Response(200, json={"totalCount": self.total or len(self.ids), "results": rows})


def listed(pages: Pages, *, page_size: int = 2) -> list[str]:
    world = World().on("/api/v1/packages", pages)
    found: list[str] = []

    async def work(server: Server) -> None:
        found.extend(await server.Packages(page_size=page_size).ids())

    world.run(work)
    return found


def test_a_list_is_all_records_or_none() -> None:
    assert listed(Pages(0)) == []
    assert listed(Pages(5)) == ["1", "2", "3", "4", "5"]
    for fault in ("total", "empty"):
        pages = Pages(5)
        setattr(pages, fault, 7)
        with pytest.raises(JamfIncomplete, match=r"of [57] records"):
            listed(pages)


@pytest.mark.parametrize("by_request", [False, True])
def test_a_page_that_is_clamped_is_not_the_last(by_request: bool) -> None:
    pages = Pages(1203)
    pages.most, pages.by_request = 500, by_request
    assert len(listed(pages, page_size=2000)) == 1203


def test_pages_that_shift_while_they_are_read_are_read_again() -> None:
    def delete(pages: Pages, number: int) -> None:
        if number == 2:
            pages.ids.remove("1")  # "3" moves to the page that was read

    assert listed(Pages(5, delete)) == ["2", "3", "4", "5"]

    def insert(pages: Pages, number: int) -> None:
        if number == 3:
            pages.ids.insert(0, "0")

    assert listed(Pages(5, insert)) == ["0", "1", "2", "3", "4", "5"]

    def restless(pages: Pages, number: int) -> None:
        pages.ids.insert(0, f"0{number}")

    with pytest.raises(JamfIncomplete):
        listed(Pages(5, restless))


def test_an_empty_answer_once_costs_a_reading() -> None:
    pages = Pages(3)
    pages.empty = 1
    assert listed(pages) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "DUPLICATE_FIELD", "duplicate name"),
        (409, "", ""),
        (400, "ALREADY_EXISTS", ""),
        (400, "NOT_UNIQUE", ""),
        (400, "INVALID_FIELD", "A package with this name already exists."),
        (400, "INVALID_FIELD", "packageName must be unique"),
    ],
)
def test_every_word_for_an_existing_name_is_a_conflict(status: int, code: str, words: str) -> None:
    body = {"httpStatus": status, "errors": [{"code": code, "field": "packageName", "description": words}]}
    world = World().on("/api/v1/packages", httpx.Response(status, json=body))

    async def work(server: Server) -> None:
        with pytest.raises(JamfConflict):
            await server.Packages().create({"packageName": "x", "fileName": "x.pkg"})

    world.run(work)


def test_filters_are_quoted() -> None:
    assert quoted('a"b\\c*d') == '"a\\"b\\\\c\\*d"'
    both = Field("fileName").eq("x") & (Field("id").in_([1, 2]) | Field("notes").ne(""))
    assert str(both) == '(fileName=="x";(id=in=("1","2"),notes!=""))'
    assert str(matching({"fileName": ["a", "b"]})) == 'fileName=in=("a","b")'
    for wrong in ("", "a b", 'x=="y"', "ü"):
        with pytest.raises(ValueError, match="field"):
            Field(wrong)
    with pytest.raises(ValueError, match="at least one"):
        Field("id").in_([])


def test_paths_into_records() -> None:
    world = World().on(
        "/api/v1/packages/7", {"id": "7", "packageName": "A", "x": {"y": [{"id": 3, "z": "deep"}]}}
    )

    async def work(server: Server) -> None:
        package = await server.Packages().recordWithId(7)
        assert package.get_path("x/y/[id==3]/z") == package.get_path("x/y/[0]/z") == "deep"
        package.set_path("x/y/[0]/z", "other")
        assert package.changed() == {"x": {"y": [{"id": 3, "z": "other"}]}}
        for wrong in ("nothing", "x/y/[id==4]/z", "x/y/[9]", "packageName/0"):
            with pytest.raises(InvalidPath):
                package.get_path(wrong)

    world.run(work)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("11.30.1-t1784555528405", (11, 30, 1)),
        ("10.9.0", (10, 9, 0)),
        ("11.5", (11, 5, 0)),
        ("x", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert JamfVersion.parse(text) == version


def test_xml_is_escaped_and_ids_are_found() -> None:
    body = to_xml("webhook", {"name": 'A & <b> "c"\x00', "enabled": True, "none": None, "inner": {"x": 1}})
    assert body.endswith(
        b'<webhook><name>A &amp; &lt;b&gt; "c"</name><enabled>true</enabled><inner><x>1</x></inner></webhook>'
    )
    assert id_of(b"<file_share_distribution_point><id>12</id></file_share_distribution_point>") == "12"
    for wrong in (
        b"",
        b"<a/>",
        b"<a><id>x</id></a>",
        b'<!DOCTYPE a [<!ENTITY b "1">]><a><id>&b;</id></a>',
        b"<a>" * 100,
    ):
        with pytest.raises(JamfSurprise):
            id_of(wrong)
    with pytest.raises(ValueError, match="no element"):
        to_xml("a b", {})


def test_a_call_that_will_go_away_is_noted_once() -> None:
    old = httpx.Response(
        200, json=[], headers={"Deprecation": "Thu, 28 Aug 2025", "Sunset": "Fri, 28 Aug 2027"}
    )
    world = World().on("/api/v1/jcds/files", old)

    async def work(server: Server) -> None:
        await server.CloudFiles().refresh()
        await server.CloudFiles().refresh()
        (notice,) = server.notices
        assert (notice.path, notice.sunset) == ("/api/v1/jcds/files", "Fri, 28 Aug 2027")

    world.run(work)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/x",
        "https://127.0.0.1/x",
        "https://10.0.0.1/x",
        "https://[::1]/x",
        "https://localhost/x",
        "https://169.254.169.254/latest",
        "https://db.internal/x",
        "file:///etc/passwd",
        "https://other.example/x",
    ],
)
def test_downloads_lead_only_where_they_may(url: str) -> None:
    world = World().on("/api/v1/jcds/files/x.pkg", {"uri": url})

    async def work(server: Server) -> None:
        with pytest.raises(JamfSurprise):
            await server.CloudFiles().url("x.pkg")

    world.run(work, allow_hosts=["cdn.example"])


def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="jamf_bridge")
    world = World().on("/api/v1/jcds/files/x.pkg", {"uri": "https://cdn.example/x?Expires=1&Signature=SIGN"})
    world.on("/x", httpx.Response(500))

    async def work(server: Server) -> None:
        url = await server.CloudFiles().url("x.pkg")
        assert "SIGN" not in repr(url)
        assert url.expires_at == 1

    world.run(work)
    shown = (
        caplog.text + repr(ClientCredentials("id", "client-secret")) + repr(UserCredentials("u", "pass-word"))
    )
    assert "SIGN" not in shown
    assert "very-secret-token" not in shown
    assert "client-secret" not in shown
    assert "pass-word" not in shown
    assert SignedUrl.of("https://x/?Expires=²").expires_at is None


def test_a_session_needs_one_way_to_sign_in() -> None:
    for options in (
        {},
        {"client_id": "x"},
        {"client_id": "x", "client_secret": "y", "username": "z", "password": "p"},
    ):
        with pytest.raises(ValueError, match="give"):
            Server(URL, **options)  # type: ignore[arg-type]
    assert Session.__doc__
