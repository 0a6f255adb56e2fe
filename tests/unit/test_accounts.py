"""Accounts and tokens over the real store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from appliance.domain.errors import (
    AccountExists,
    AccountUnknown,
    Conflict,
    InvalidInput,
    NotAuthenticated,
    PermissionDenied,
    TokenUnknown,
    TooManyAttempts,
)
from appliance.service.accounts import Accounts, Principal, Role, parse_role
from appliance.service.passwords import REMEMBERED_MS, Passwords
from appliance.service.signing_in import CROWD, CROWD_CAP_S
from appliance.service.throttle import FREE
from appliance.store.opening import open_store
from appliance.store.ports import Store

PASSWORD = "a password of some length"
HERE, THERE = "192.0.2.1", "192.0.2.2"


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = 1_800_000_000_000
        self.accounts = Accounts(
            store, lambda: self.clock, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        )

    async def user(self, name: str = "op", role: Role = Role.OPERATOR) -> Principal:
        await self.accounts.create_user(name, PASSWORD, role, actor="admin")
        return await self.accounts.sign_in(name, PASSWORD, address=HERE)

    async def events(self, type: str) -> list[str]:
        return [doc["subject"] for doc in await self.store.find("events", {"type": type}, limit=500)]


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        try:
            await test(World(store))
        finally:
            await store.close()

    asyncio.run(go())


def test_the_first_account(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        shown = await world.accounts.ensure_first("")
        assert shown is not None
        assert len(shown) >= 24
        assert await world.accounts.ensure_first("") is None, "only once"
        assert (await world.accounts.sign_in("admin", shown, address=HERE)).role is Role.ADMIN
        assert (await world.accounts.users())[0]["must_change"] is True
        await world.accounts.change_user("admin", password=PASSWORD, actor="admin")
        assert (await world.accounts.users())[0]["must_change"] is False

    in_world(tmp_path, test)


def test_the_first_account_with_a_password_that_was_set(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.accounts.ensure_first(PASSWORD) is None
        assert (await world.accounts.users())[0]["must_change"] is False
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("admin", "", address=HERE)

    in_world(tmp_path, test)


def test_signing_in(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.user() == Principal(name="op", role=Role.OPERATOR, via="password")
        texts = set()
        for name, password in (("op", "wrong"), ("nobody", PASSWORD), ("", ""), ("op", PASSWORD + "x")):
            with pytest.raises(NotAuthenticated) as caught:
                await world.accounts.sign_in(name, password, address=HERE)
            texts.add(caught.value.message)
        assert len(texts) == 1, "the answer does not tell which names exist"

    in_world(tmp_path, test)


def test_an_unknown_name_costs_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        calls = []
        verify = world.accounts._passwords._hasher.verify
        monkeypatch.setattr(
            PasswordHasher, "verify", lambda _, *args: (calls.append(args), verify.__func__(_, *args))[1]
        )
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("nobody", "x", address=HERE)
        assert len(calls) == 1

    in_world(tmp_path, test)


def test_a_good_password_is_remembered_for_a_minute_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        await world.user()
        calls: list[str] = []

        async def verify(_: Passwords, stored: str, password: str) -> bool:
            calls.append(password)
            return True

        monkeypatch.setattr(Passwords, "verify", verify)
        await world.accounts.sign_in("op", PASSWORD, address=THERE)
        assert calls == []
        await world.accounts.sign_in("op", "another", address=HERE)
        assert calls == ["another"]
        world.clock += REMEMBERED_MS + 1
        await world.accounts.sign_in("op", PASSWORD, address=HERE)
        assert calls == ["another", PASSWORD]

    in_world(tmp_path, test)


def test_guessing_is_slowed_down_for_that_name_and_address(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user("other")
        await world.accounts.create_user("op", PASSWORD, Role.VIEWER, actor="admin")
        for _ in range(FREE):
            with pytest.raises(NotAuthenticated):
                await world.accounts.sign_in("op", "guess", address=HERE)
        for password in ("guess", PASSWORD):
            with pytest.raises(TooManyAttempts) as caught:
                await world.accounts.sign_in("OP", password, address=HERE)
            assert caught.value.details["retry_after"] == 1
        await world.accounts.sign_in("op", PASSWORD, address=THERE)
        world.clock += REMEMBERED_MS + 1
        await world.accounts.sign_in("op", PASSWORD, address=HERE)
        assert await world.events("sign_in.refused") == ["op"], "one event for a burst"

    in_world(tmp_path, test)


def test_names_of_any_length_cost_no_memory(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("x" * 50_000, "guess", address=HERE)
        assert all(len(str(source)) < 200 for source in world.accounts._throttle._failures)
        assert [len(subject) for subject in await world.events("sign_in.refused")] == [64]

    in_world(tmp_path, test)


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "a/b", "x" * 65, "ä", "a\n", "a:b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(InvalidInput):
            await world.accounts.create_user(name, PASSWORD, Role.VIEWER, actor="admin")

    in_world(tmp_path, test)


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 1025])
def test_passwords_that_are_none(tmp_path: Path, password: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(InvalidInput) as caught:
            await world.accounts.create_user("x", password, Role.VIEWER, actor="admin")
        assert not password or password not in caught.value.message
        await world.user()
        with pytest.raises(InvalidInput):
            await world.accounts.change_user("op", password=password, actor="op")

    in_world(tmp_path, test)


def test_users(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user()
        with pytest.raises(AccountExists):
            await world.accounts.create_user("op", PASSWORD, Role.VIEWER, actor="admin")
        with pytest.raises(AccountUnknown):
            await world.accounts.change_user("nobody", role=Role.ADMIN, actor="admin")
        with pytest.raises(AccountUnknown):
            await world.accounts.remove_user("nobody", actor="admin")
        assert all("password" not in doc for doc in await world.accounts.users())
        await world.accounts.change_user("op", role=Role.VIEWER, actor="admin")
        assert (await world.accounts.sign_in("op", PASSWORD, address=HERE)).role is Role.VIEWER, "at once"
        await world.accounts.change_user("op", password=PASSWORD[::-1], actor="op")
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("op", PASSWORD, address=HERE)
        await world.accounts.remove_user("op", actor="admin")
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("op", PASSWORD[::-1], address=THERE)
        assert await world.events("account.changed") == ["op"] * 4

    in_world(tmp_path, test)


def test_the_last_administrator_stays(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.accounts.ensure_first(PASSWORD)
        await world.user()
        with pytest.raises(Conflict):
            await world.accounts.remove_user("admin", actor="admin")
        for role in (Role.OPERATOR, Role.VIEWER):
            with pytest.raises(Conflict):
                await world.accounts.change_user("admin", role=role, actor="admin")
        await world.accounts.change_user("admin", role=Role.ADMIN, actor="admin")
        await world.user("second", Role.ADMIN)
        await world.accounts.remove_user("admin", actor="second")

    in_world(tmp_path, test)


def test_two_administrators_cannot_remove_each_other_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user("one", Role.ADMIN)
        await world.user("two", Role.ADMIN)
        await asyncio.gather(
            world.accounts.remove_user("one", actor="two"),
            world.accounts.change_user("two", role=Role.VIEWER, actor="one"),
            return_exceptions=True,
        )
        assert [doc["_id"] for doc in await world.accounts.users() if doc["role"] == "admin"]

    in_world(tmp_path, test)


def test_tokens(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        op = await world.user()
        token, doc = await world.accounts.tokens.create(op, name="script")
        assert await world.accounts.tokens.check(token, address=HERE) == Principal(
            name="op", role=Role.OPERATOR, via=f"token {doc['_id']}"
        )
        stored = await world.store.get("tokens", doc["_id"])
        assert stored is not None
        assert token not in str(stored)
        assert "digest" not in doc
        assert all("digest" not in item for item in await world.accounts.tokens.page())
        for wrong in (
            "",
            token[:-1],
            token + "x",
            token[:-1] + "\n",
            "ods_" + "a" * 8 + token[12:],
            token.upper(),
        ):
            with pytest.raises(NotAuthenticated):
                await world.accounts.tokens.check(wrong, address=THERE + wrong)

    in_world(tmp_path, test)


def test_tokens_expire_and_say_when_they_were_used(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, _ = await world.accounts.tokens.create(await world.user(), name="x", expires_s=3600)
        world.clock += 3_599_999
        await world.accounts.tokens.check(token, address=THERE)
        (doc,) = await world.accounts.tokens.page("op")
        assert (doc["used_at"], doc["used_from"]) == (world.clock, THERE)
        world.clock += 1
        with pytest.raises(NotAuthenticated):
            await world.accounts.tokens.check(token, address=HERE)

    in_world(tmp_path, test)


def test_a_tokens_role_is_never_above_its_accounts(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        op = await world.user()
        with pytest.raises(PermissionDenied):
            await world.accounts.tokens.create(op, name="x", role=Role.ADMIN)
        token, _ = await world.accounts.tokens.create(op, name="x")
        low, _ = await world.accounts.tokens.create(op, name="y", role=Role.VIEWER)
        assert (await world.accounts.tokens.check(low, address=HERE)).role is Role.VIEWER
        await world.accounts.change_user("op", role=Role.VIEWER, actor="admin")
        assert (await world.accounts.tokens.check(token, address=HERE)).role is Role.VIEWER
        await world.accounts.change_user("op", role=Role.ADMIN, actor="admin")
        assert (await world.accounts.tokens.check(token, address=HERE)).role is Role.OPERATOR

    in_world(tmp_path, test)


def test_tokens_go_with_their_account(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, _ = await world.accounts.tokens.create(await world.user(), name="x")
        await world.accounts.remove_user("op", actor="admin")
        await world.user()  # a new one of the same name
        with pytest.raises(NotAuthenticated):
            await world.accounts.tokens.check(token, address=HERE)
        assert await world.accounts.tokens.page() == []

    in_world(tmp_path, test)


def test_revoking(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        op, other = await world.user(), await world.user("other")
        admin = await world.user("boss", Role.ADMIN)
        token, doc = await world.accounts.tokens.create(op, name="x")
        _, second = await world.accounts.tokens.create(op, name="y")
        with pytest.raises(TokenUnknown):
            await world.accounts.tokens.revoke(doc["_id"], other)
        await world.accounts.tokens.revoke(doc["_id"], op)
        with pytest.raises(NotAuthenticated):
            await world.accounts.tokens.check(token, address=HERE)
        await world.accounts.tokens.revoke(second["_id"], admin)
        with pytest.raises(TokenUnknown):
            await world.accounts.tokens.revoke(second["_id"], admin)
        assert sorted(await world.events("token.revoked")) == sorted([doc["_id"], second["_id"]])

    in_world(tmp_path, test)


def test_wrong_tokens_wait_and_right_ones_from_the_same_address_do_not(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, _ = await world.accounts.tokens.create(await world.user(), name="x")
        for _ in range(FREE):
            with pytest.raises(NotAuthenticated):
                await world.accounts.tokens.check("ods_x", address=HERE)
        with pytest.raises(TooManyAttempts):
            await world.accounts.tokens.check("ods_x", address=HERE)
        assert (await world.accounts.tokens.check(token, address=HERE)).name == "op"

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "life"), [("", 3600), ("x" * 101, 3600), ("a\nb", 3600), ("x", 59), ("x", 10**9)]
)
def test_tokens_that_are_not_made(tmp_path: Path, name: str, life: int) -> None:
    async def test(world: World) -> None:
        with pytest.raises(InvalidInput):
            await world.accounts.tokens.create(await world.user(), name=name, expires_s=life)

    in_world(tmp_path, test)


def test_roles() -> None:
    assert [parse_role(role.word) for role in Role] == list(Role)
    assert Role.VIEWER < Role.OPERATOR < Role.ADMIN
    for wrong in ("", "root", "admin "):
        with pytest.raises(InvalidInput):
            parse_role(wrong)


def test_a_few_guesses_at_each_of_many_accounts_are_slowed_down(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user()
        for number in range(CROWD):
            with pytest.raises(NotAuthenticated):
                await world.accounts.sign_in(f"somebody{number}", PASSWORD, address=HERE)
        with pytest.raises(TooManyAttempts):
            await world.accounts.sign_in("op", "another guess", address=HERE)
        assert await world.events("sign_in.locked") == ["many accounts"]
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("op", "another guess", address=THERE)
        # A script whose password was right lately is not locked out by its neighbours.
        assert (await world.accounts.sign_in("op", PASSWORD, address=HERE)).name == "op"
        world.clock += 60_000 + CROWD_CAP_S * 1000
        assert (await world.accounts.sign_in("op", PASSWORD, address=HERE)).name == "op"

    in_world(tmp_path, test)
