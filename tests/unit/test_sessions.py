"""Sessions: who is let in, and what ends one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from appliance.domain.errors import NotAuthenticated, SessionUnknown
from appliance.service.accounts import Accounts, Principal, Role
from appliance.service.sessions import MAX_SESSIONS, Sessions
from appliance.store.opening import open_store
from appliance.store.ports import Store

PASSWORD = "a long enough one"
ANNA = Principal(name="anna", role=Role.OPERATOR, via="password")
ADMIN = Principal(name="root", role=Role.ADMIN, via="password")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms

    def pass_s(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class Site:
    """A store, accounts and sessions."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, Clock()
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.accounts = Accounts(store, self.clock, hasher=cheap)
        self.sessions = Sessions(store, self.clock, idle_s=600, life_s=3600)

    async def start(self, who: Principal = ANNA) -> str:
        token, _ = await self.sessions.start(who, address="192.0.2.1", agent="Safari")
        return token

    async def ended(self, token: str) -> bool:
        try:
            await self.sessions.check(token)
        except NotAuthenticated:
            return True
        return False


def in_site(test: Callable[[Site], Awaitable[None]]) -> Callable[[Path], None]:
    """A test with a site of its own."""

    def run(tmp_path: Path) -> None:
        async def go() -> None:
            store = await open_store("", tmp_path)
            try:
                site = Site(store)
                for name, role in (("root", Role.ADMIN), ("anna", Role.OPERATOR)):
                    await site.accounts.create_user(name, PASSWORD, role, actor="test")
                await test(site)
            finally:
                await store.close()

        asyncio.run(go())

    return run


@in_site
async def test_a_token_opens_its_session_and_is_not_kept(site: Site) -> None:
    token = await site.start()
    session = await site.sessions.check(token)
    assert (session.principal.name, session.principal.role) == ("anna", Role.OPERATOR)
    stored: list[dict[str, Any]] = await site.store.find("sessions")
    assert token not in repr(stored)
    for wrong in ("", token[:-1], token + "x", stored[0]["_id"]):
        assert await site.ended(wrong)


@in_site
async def test_it_ends_when_idle_and_at_its_age(site: Site) -> None:
    token = await site.start()
    for _ in range(5):
        site.clock.pass_s(599)
        assert not await site.ended(token)
    site.clock.pass_s(601)
    assert await site.ended(token)
    token = await site.start()
    for _ in range(6):
        site.clock.pass_s(599)
        assert not await site.ended(token)
    site.clock.pass_s(10)
    assert await site.ended(token), "an hour is the most, however busy"


@in_site
async def test_a_page_that_renews_itself_keeps_no_session_open(site: Site) -> None:
    token = await site.start()
    site.clock.pass_s(500)
    await site.sessions.check(token, active=False)
    site.clock.pass_s(200)
    assert await site.ended(token)


@in_site
async def test_a_changed_account_ends_its_sessions(site: Site) -> None:
    token, other = await site.start(), await site.start(ADMIN)
    site.clock.pass_s(1)
    await site.accounts.change_user("anna", role=Role.VIEWER, actor="root")
    assert await site.ended(token)
    assert not await site.ended(other)
    token = await site.start()
    await site.accounts.remove_user("anna", actor="root")
    assert await site.ended(token)


@in_site
async def test_ending_one_and_all(site: Site) -> None:
    first, second, other = await site.start(), await site.start(), await site.start(ADMIN)
    id = (await site.sessions.check(other)).id
    with pytest.raises(SessionUnknown):
        await site.sessions.end(id, ANNA)
    await site.sessions.end((await site.sessions.check(first)).id, ANNA)
    assert [await site.ended(token) for token in (first, second, other)] == [True, False, False]
    assert await site.sessions.end_all("anna", ADMIN) == 1
    assert await site.ended(second)
    events = [doc["type"] for doc in await site.store.find("events", order="seq")]
    assert events.count("session.started") == 3
    assert events.count("session.ended") == 2


@in_site
async def test_the_oldest_makes_room(site: Site) -> None:
    first = await site.start()
    for _ in range(MAX_SESSIONS):
        site.clock.pass_s(0.001)
        await site.start()
    assert await site.ended(first)
    assert len(await site.sessions.page("anna")) == MAX_SESSIONS
