"""Accounts and tokens while something else happens to them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from appliance.domain.errors import (
    AccountUnknown,
    Conflict,
    InvalidInput,
    NotAuthenticated,
    StoreUnavailable,
    TooManyAttempts,
)
from appliance.service import tokens as module
from appliance.service.accounts import Accounts, Principal, Role
from appliance.service.passwords import Passwords
from appliance.service.throttle import FREE

from .test_accounts import HERE, PASSWORD, World, in_world

NEW = PASSWORD[::-1]


def another_process(world: World) -> Accounts:
    """A second process of the same node, with a memory of its own."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return Accounts(world.store, lambda: world.clock, hasher=quick)


def test_a_token_revoked_while_it_is_used_stays_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        op = await world.user()
        token, doc = await world.accounts.tokens.create(op, name="x")
        get = world.store.get

        async def slow(collection: str, id: str) -> Any:
            found = await get(collection, id)
            if collection == "accounts":
                await world.accounts.tokens.revoke(doc["_id"], op)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "get", slow)
            await world.accounts.tokens.check(token, address=HERE)
        assert await world.accounts.tokens.page() == []
        with pytest.raises(NotAuthenticated):
            await world.accounts.tokens.check(token, address=HERE)

    in_world(tmp_path, test)


def test_two_uses_of_a_token_at_once_are_both_good(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        token, _ = await world.accounts.tokens.create(await world.user(), name="x")
        found = await asyncio.gather(*(world.accounts.tokens.check(token, address=HERE) for _ in range(10)))
        assert {who.name for who in found} == {"op"}

    in_world(tmp_path, test)


def test_a_password_that_is_changed_while_it_is_checked_signs_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        await world.accounts.create_user("op", PASSWORD, Role.VIEWER, actor="admin")
        verify = Passwords.verify

        async def slow(passwords: Passwords, stored: str, password: str) -> bool:
            good = await verify(passwords, stored, password)
            await world.store.replace("accounts", {**await doc(), "password": passwords._hasher.hash(NEW)})
            return good

        async def doc() -> dict[str, Any]:
            found = await world.store.get("accounts", "op")
            assert found is not None
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Passwords, "verify", slow)
            with pytest.raises(NotAuthenticated):
                await world.accounts.sign_in("op", PASSWORD, address=HERE)
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("op", PASSWORD, address=HERE)
        await world.accounts.sign_in("op", NEW, address=HERE)

    in_world(tmp_path, test)


def test_what_one_process_changes_holds_in_the_others_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user("boss", Role.ADMIN)
        await world.user()
        other = another_process(world)
        assert (await other.sign_in("op", PASSWORD, address=HERE)).role is Role.OPERATOR
        await world.accounts.change_user("op", role=Role.VIEWER, actor="boss")
        assert (await other.sign_in("op", PASSWORD, address=HERE)).role is Role.VIEWER
        await world.accounts.change_user("op", password=NEW, actor="boss")
        with pytest.raises(NotAuthenticated):
            await other.sign_in("op", PASSWORD, address=HERE)
        await other.sign_in("op", NEW, address=HERE)
        await world.accounts.remove_user("op", actor="boss")
        with pytest.raises(NotAuthenticated):
            await other.sign_in("op", NEW, address=HERE)

    in_world(tmp_path, test)


def test_guesses_sent_all_at_once_are_slowed_down_as_well(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.accounts.create_user("op", PASSWORD, Role.VIEWER, actor="admin")
        tries = (world.accounts.sign_in("op", f"guess {n}", address=HERE) for n in range(100))
        ends = await asyncio.gather(*tries, return_exceptions=True)
        checked = sum(isinstance(end, NotAuthenticated) for end in ends)
        assert checked <= FREE + 1, "two are hashed at a time"
        assert sum(isinstance(end, TooManyAttempts) for end in ends) == len(ends) - checked

    in_world(tmp_path, test)


def test_a_script_that_begins_with_many_requests_is_let_in_and_pays_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        await world.accounts.create_user("op", PASSWORD, Role.VIEWER, actor="admin")
        checks: list[str] = []
        verify = Passwords.verify

        async def counted(passwords: Passwords, stored: str, password: str) -> bool:
            checks.append(password)
            return await verify(passwords, stored, password)

        monkeypatch.setattr(Passwords, "verify", counted)
        found = await asyncio.gather(
            *(world.accounts.sign_in("op", PASSWORD, address=HERE) for _ in range(50))
        )
        assert len(found) == 50
        assert len(checks) <= 2, "those that waited use what the first ones found"

    in_world(tmp_path, test)


def test_no_token_is_made_for_an_account_that_was_removed_meanwhile(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        op = await world.user()
        await world.accounts.remove_user("op", actor="admin")
        with pytest.raises(AccountUnknown):
            await world.accounts.tokens.create(op, name="late")
        assert await world.accounts.tokens.page() == []

    in_world(tmp_path, test)


def test_an_account_goes_with_its_tokens_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        op = await world.user()
        token, _ = await world.accounts.tokens.create(op, name="x")

        async def down(*_: object) -> None:
            raise StoreUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "batch", down)
            with pytest.raises(StoreUnavailable):
                await world.accounts.remove_user("op", actor="admin")
        assert (await world.accounts.tokens.check(token, address=HERE)).name == "op"

    in_world(tmp_path, test)


def test_tokens_have_a_bound_and_old_ones_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        monkeypatch.setattr(module, "MAX_TOKENS", 3)
        op = await world.user()
        for _ in range(3):
            await world.accounts.tokens.create(op, name="x", expires_s=60)
        with pytest.raises(Conflict):
            await world.accounts.tokens.create(op, name="one too many")
        other: Principal = await world.user("other")
        await world.accounts.tokens.create(other, name="x", expires_s=60)
        world.clock += 40 * 24 * 3600 * 1000
        _, doc = await world.accounts.tokens.create(op, name="x")
        assert [item["_id"] for item in await world.accounts.tokens.page("op")] == [doc["_id"]]
        assert len(await world.accounts.tokens.page("other")) == 1

    in_world(tmp_path, test)


def test_a_first_password_of_any_length_works(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        long = "x" * 1500
        await world.accounts.ensure_first(long)
        assert (await world.accounts.sign_in("admin", long, address=HERE)).role is Role.ADMIN
        with pytest.raises(NotAuthenticated):
            await world.accounts.sign_in("admin", long[:1024], address=HERE)

    in_world(tmp_path, test)


def test_the_log_says_all_that_was_changed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.user("boss", Role.ADMIN)
        await world.user()
        with pytest.raises(InvalidInput):
            await world.accounts.change_user("op", actor="boss")
        await world.accounts.change_user("op", password=NEW, role=Role.VIEWER, actor="boss")
        (last,) = await world.store.find(
            "events", {"type": "account.changed"}, order="seq", descending=True, limit=1
        )
        assert last["data"] == {
            "change": "password changed, role changed",
            "role": "viewer",
            "before": {"role": "operator"},
            "after": {"role": "viewer"},
        }

    in_world(tmp_path, test)
