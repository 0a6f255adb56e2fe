"""When bytes in an MDM are news: each case of the rule in docs/mdm.md."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.names import package_id
from jamf_bridge.digests import agree
from jamf_bridge.driver import CloudState, RemotePackage
from jamf_bridge.intake.comparing import BACK_LOOKS, MANY_BACK
from jamf_bridge.intake.remote import rows_of, same_mark
from jamf_bridge.versions import KEPT, LANDING_MS, note_pulled, note_sent, noted, versions_of
from tests.unit.test_mdm_intake import World, in_world, remote

V0, V1, V2, V3 = ("0" * 128, "1" * 128, "2" * 128, "3" * 128)
NAME = "a.pkg"


async def row_of(world: World, name: str = NAME) -> dict[str, Any]:
    """The row of a file name, the newest record's first."""
    found = [row for row in (await rows_of(world.store, "s")).values() if row["file_name"] == name]
    return max(found, key=lambda row: int(row["remote"]))


async def state_of(world: World, name: str = NAME) -> str:
    return str((await row_of(world, name))["state"])


async def converged(world: World, *versions: str) -> None:
    """These versions were here and in the MDM, one after the other; the looks are a minute apart."""
    await world.look()
    for version in versions:
        world.holds(NAME, version)
        for _ in range(2):
            await world.look(remote(NAME, version))
            assert await state_of(world) == "taken"


async def stayed(world: World, *found: RemotePackage, looks: int = BACK_LOOKS) -> None:
    """The MDM goes on saying the same."""
    for _ in range(looks):
        await world.look(*found, after_s=20)


def test_an_upload_of_ours_that_lands_late_is_no_news(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        await world.look(remote(NAME, "", state=CloudState.NONE))
        await note_sent(world.store, "s", world.packages[package_id(NAME)], world.ms)
        await world.look(remote(NAME, "", state=CloudState.PENDING))
        world.holds(NAME, V2)
        for _ in range(3):
            await world.look(remote(NAME, "", state=CloudState.PENDING))
        for _ in range(5):
            await world.look(remote(NAME, V1))
            assert await state_of(world) == "taken"
        assert (await row_of(world))["taken"] == remote(NAME, V1).mark, "so our newer bytes are ahead"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_it_is_no_news_either_if_nobody_remembers_the_upload_and_nothing_newer_was_seen(
    tmp_path: Path,
) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        await world.look(remote(NAME, "", state=CloudState.PENDING))
        world.holds(NAME, V2)
        await world.look(remote(NAME, "", state=CloudState.PENDING))
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "taken"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_bytes_that_stayed_behind_are_no_news(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        world.holds(NAME, V2)
        world.holds("b.pkg", V2)
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "taken"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_who_goes_back_after_the_newest_was_seen_is_obeyed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        world.asked_by_id.clear()
        for _ in range(BACK_LOOKS - 1):
            assert (await world.look(remote(NAME, V1), after_s=20)).pending == 1
            assert "looks again" in (await row_of(world))["error"]
        await world.look(remote(NAME, V1), after_s=20)
        assert await state_of(world) == "wanted"
        assert world.asked_by_id == ["1"]
        row = await row_of(world)
        assert (row["act"], row["over"]) == (True, world.packages[package_id(NAME)].body.sha256)
        await world.look(remote(NAME, V1))
        assert await state_of(world) == "wanted", "until its bytes are here"
        world.holds(NAME, V1)
        await world.look(remote(NAME, V1))
        assert await state_of(world) == "taken"
        assert await world.pulls() == 1

    in_world(tmp_path, test)


def test_who_goes_back_right_after_an_upload_was_fetched_is_obeyed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        await world.look(remote(NAME, V2), after_s=5)
        row = await row_of(world)
        world.holds(NAME, V2)  # its bytes have come
        package = world.packages[package_id(NAME)]
        await note_pulled(world.store, "s", package, package.body.sha256)
        done = {"state": "taken", "taken": row["mark"], "sure": row["mark"]}
        await world.store.replace("mdm_remote", {**row, **done})
        await stayed(world, remote(NAME, V1))
        assert await state_of(world) == "wanted"

    in_world(tmp_path, test)


def test_looks_that_come_at_once_are_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        for _ in range(20):
            await world.look(remote(NAME, V1), after_s=1)
        assert await state_of(world) == "pending"
        await world.look(remote(NAME, V1), after_s=15)
        assert await state_of(world) == "wanted"

    in_world(tmp_path, test)


def test_a_list_that_is_old_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        for _ in range(4):
            await world.look(remote(NAME, V1), after_s=20)
            await world.look(remote(NAME, V2), after_s=20)
        assert await state_of(world) == "taken"
        assert (await row_of(world))["back"] is None
        assert await world.pulls() == 0

    in_world(tmp_path, test)


@pytest.mark.parametrize("honest", [False, True])
@pytest.mark.parametrize("shown", [V1, ""])
def test_what_an_old_list_showed_is_no_ground_to_go_back(tmp_path: Path, shown: str, honest: bool) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        if honest:
            world.says["1"] = remote(NAME, V2)
        world.holds(NAME, V3)
        for _ in range(
            4
        ):  # an old list: for a few seconds, or for long, but then the record itself contradicts it
            state = CloudState.READY if shown else CloudState.NONE
            await world.look(remote(NAME, shown, state=state), after_s=61 if honest else 5)
        await stayed(world, remote(NAME, V2), looks=6)
        assert await state_of(world) == "taken", "it went from one list to the other, nobody went back"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_a_list_that_the_record_itself_contradicts_is_not_followed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        world.says["1"] = remote(NAME, V2)
        await stayed(world, remote(NAME, V1), looks=6)
        assert await state_of(world) == "pending"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_a_look_while_the_mdm_works_is_no_look(tmp_path: Path) -> None:
    """The upload began before the newest version was here: its age is that of its beginning."""

    async def test(world: World) -> None:
        await converged(world, V1, V2)
        await world.look(remote(NAME, V2, state=CloudState.PENDING))
        world.holds(NAME, V3)
        for _ in range(4):
            await world.look(remote(NAME, V2, state=CloudState.PENDING))
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "taken"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_who_uploads_earlier_bytes_where_there_were_none_is_obeyed_if_he_came_after(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        nothing = remote(NAME, "", state=CloudState.NONE)
        world.holds(NAME, V1)
        await world.look(nothing)
        world.holds(NAME, V2)
        await world.look(remote(NAME, V1))
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "taken", "it came with the replacement: nobody can tell"
        await world.look(nothing)
        await world.look(nothing)
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "wanted"

    in_world(tmp_path, test)


def test_a_change_here_ends_what_is_looked_at(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        await stayed(world, remote(NAME, V1), looks=2)
        world.holds(NAME, V3)
        await stayed(world, remote(NAME, V1), looks=5)
        assert await state_of(world) == "taken", "the file that was put here is newer"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


@pytest.mark.parametrize("count", [MANY_BACK, MANY_BACK + 1])
def test_many_that_go_back_at_once_are_a_restore(tmp_path: Path, count: int) -> None:
    async def test(world: World) -> None:
        names = {str(number): f"p{number}.pkg" for number in range(1, count + 1)}

        async def look(version: str, after_s: float = 60) -> None:
            found = [remote(name, version, id=id) for id, name in names.items()]
            await world.look(*found, after_s=after_s)

        await world.look()
        for version in (V1, V2):
            for name in names.values():
                world.holds(name, version)
            await look(version)
            await look(version)
        for _ in range(6):
            await look(V1, 20)
        many = count > MANY_BACK
        assert set((await world.states()).values()) == {"conflict" if many else "wanted"}
        assert await world.pulls() == (0 if many else count)
        if many:
            revs = {row["_rev"] for row in (await rows_of(world.store, "s")).values()}
            await look(V1)
            assert {row["_rev"] for row in (await rows_of(world.store, "s")).values()} == revs
            assert "restore" in (await row_of(world, "p1.pkg"))["error"]
            await look(V2)
            assert set((await world.states()).values()) == {"taken"}

    in_world(tmp_path, test)


# What the MDM states


def with_hashes(**hashes: str) -> RemotePackage:
    return RemotePackage(id="1", file_name=NAME, state=CloudState.READY, size=5, hashes=hashes)


@pytest.mark.parametrize("stated", [{}, {"sha512": "f" * 128}])
def test_without_a_hash_that_is_known_nothing_is_taken_back(tmp_path: Path, stated: dict[str, str]) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        for _ in range(6):
            assert (await world.look(with_hashes(**stated))).pending == 1
        assert await world.pulls() == 0
        assert world.asked == ([NAME] * 6 if stated else []), (
            "the hash of the file here is asked for, to compare"
        )

    in_world(tmp_path, test)


def test_md5_alone_is_enough_to_know_an_earlier_version(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.look()
        for number, version in enumerate((V1, V2)):
            world.holds(NAME, version)
            package = world.packages[package_id(NAME)]
            body = replace(package.body, hashes={"md5": str(number) * 32, "sha3_512": version})
            world.packages[package.id] = replace(package, body=body)
            await world.look(with_hashes(md5=str(number) * 32))
            assert await state_of(world) == "taken"
        await world.look(with_hashes(md5="1" * 32))
        for _ in range(3):
            await world.look(with_hashes(md5="0" * 32), after_s=20)
        assert await state_of(world) == "wanted", "somebody went back"
        await world.look(with_hashes(md5="1" * 32))
        assert await state_of(world) == "taken"

    in_world(tmp_path, test)


def test_the_sha256_of_what_a_record_replaces_is_enough_too(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V2)
        package = world.packages[package_id(NAME)]
        body = replace(package.body, replaces=("a" * 64,))
        world.packages[package.id] = replace(package, body=body)
        await world.look(with_hashes(sha256="A" * 64))
        assert await state_of(world) == "taken", "no conflict: what is here replaced it"

    in_world(tmp_path, test)


def test_a_hash_with_another_size_is_looked_at_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        await world.look(remote(NAME, V1, size=6))
        assert await state_of(world) == "pending"
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_a_listing_without_the_files_of_the_cloud_changes_no_row(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds("c.pkg", V1)
        blind = [
            RemotePackage(id=id, file_name=name, state=CloudState.READY, hashes={"sha3_512": version})
            for id, name, version in (("1", NAME, V2), ("2", "c.pkg", V3))
        ]
        seen = [remote(NAME, V2), remote("c.pkg", V3, id="2")]
        world.holds(NAME, V2)
        await world.look(*blind, can_open=False)
        await world.look(*seen)
        assert await world.states() == {NAME: "taken", "c.pkg": "conflict"}
        for _ in range(3):
            await world.look(*blind, can_open=False)
            await world.look(*seen)
        assert await world.states() == {NAME: "taken", "c.pkg": "conflict"}
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_a_first_look_that_sees_no_hashes_does_not_make_old_files_new(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        await world.look(remote(NAME, "", state=CloudState.PENDING))
        for _ in range(3):
            await world.look(remote(NAME, V2))
        assert await state_of(world) == "conflict"

    in_world(tmp_path, test)


# Records that come and go


def test_a_record_that_one_list_lacks_keeps_its_protection(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        world.holds("w.pkg", V1, withdrawn=True)
        found = [remote(NAME, V2), remote("w.pkg", V1, id="2"), remote("other.pkg", V3, id="3")]
        await world.look(*found)
        before = await world.states()
        assert before == {NAME: "conflict", "w.pkg": "skipped", "other.pkg": "wanted"}
        for lacking in ([], found[2:], found[:1]):
            assert (await world.look(*lacking)).missing == len(found) - len(lacking)
            await world.look(*found)
            assert await world.states() == before
        assert world.asked_by_id == []

    in_world(tmp_path, test)


def test_a_record_that_is_there_by_its_id_is_kept_however_often_lists_lack_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        await world.look(remote(NAME, V2))
        for number in range(30):
            summary = await world.look()
            assert summary.missing == (number < 10), "after ten minutes it says nothing of the lists any more"
        await world.look(remote(NAME, V2))
        assert await state_of(world) == "conflict"

    in_world(tmp_path, test)


def test_a_row_that_was_lost_makes_an_old_record_no_new_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds(NAME, V1)
        world.holds("w.pkg", V1, withdrawn=True)
        found = [remote(NAME, V2), remote("w.pkg", V1, id="2")]
        await world.look(*found)
        await world.store.delete("mdm_remote", {"server": "s"})
        await world.store.delete("mdm_versions", {"server": "s"})
        for _ in range(6):
            await world.look(*found)
        assert await world.states() == {NAME: "conflict", "w.pkg": "skipped"}
        await world.look(*found, remote("new.pkg", V3, id="3"))
        assert (await world.states())["new.pkg"] == "wanted"

    in_world(tmp_path, test)


def test_a_record_deleted_and_made_again_with_earlier_bytes_is_obeyed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1, V2)
        del world.there["1"]
        await world.look()
        await world.look()
        await stayed(world, remote(NAME, V1, id="2"), looks=2)
        assert await state_of(world) == "pending"
        await stayed(world, remote(NAME, V1, id="2"), looks=2)
        assert await state_of(world) == "wanted"

    in_world(tmp_path, test)


def test_a_withdrawn_package_comes_back_with_a_new_record_and_not_with_an_old_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        world.holds(NAME, V1, withdrawn=True)
        await stayed(world, remote(NAME, V1), looks=6)
        assert await state_of(world) == "taken"
        del world.there["1"]
        await world.look()
        await world.look()
        await stayed(world, remote(NAME, V1, id="2"), looks=4)
        assert await state_of(world) == "wanted"

    in_world(tmp_path, test)


# What changes meanwhile


def test_a_file_put_here_while_news_are_fetched_is_not_replaced_by_them(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        await world.look(remote(NAME, V2))
        assert await state_of(world) == "wanted"
        world.holds(NAME, V3)
        for _ in range(3):
            await world.look(remote(NAME, V2))
            assert await state_of(world) == "conflict", "both are kept; the next upload decides"
        world.holds(NAME, V2)
        await world.look(remote(NAME, V2))
        assert await state_of(world) == "taken"

    in_world(tmp_path, test)


def test_what_was_left_out_by_the_settings_is_not_newer_than_what_came_since(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await converged(world, V1)
        world.config = world.config.model_copy(
            update={"intake": world.config.intake.model_copy(update={"enabled": False})}
        )
        await world.look(remote(NAME, V2))
        world.holds(NAME, V3)
        await world.look(remote(NAME, V2))
        world.config = world.config.model_copy(
            update={"intake": world.config.intake.model_copy(update={"enabled": True})}
        )
        await world.look(remote(NAME, V2))
        assert await state_of(world) == "conflict"

    in_world(tmp_path, test)


def test_a_package_whose_record_was_lost_for_a_while_keeps_its_versions(tmp_path: Path) -> None:
    """Else its earlier versions, which lists may still show, would be news."""

    async def test(world: World) -> None:
        world.ms += 200 * 86_400_000
        await converged(world, V1, V2)
        await note_pulled(world.store, "s", world.packages[package_id(NAME)], row_sha(world))
        package = world.packages.pop(package_id(NAME))
        await world.look(remote(NAME, V2))
        world.packages[package.id] = package
        await stayed(world, remote(NAME, V1), looks=2)
        assert await state_of(world) in {"pending", "taken"}
        (doc,) = await world.store.find("mdm_versions", {"server": "s"})
        assert [version["hashes"]["sha3_512"] for version in doc["versions"]] == [V2, V1]

    in_world(tmp_path, test)


def row_sha(world: World) -> str:
    return world.packages[package_id(NAME)].body.sha256


# What is kept


def test_versions_are_bounded_and_an_upload_is_not_awaited_for_ever(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.look()
        for number in range(KEPT + 8):
            world.holds(NAME, f"{number:0128}")
            await world.look()
        (doc,) = (await versions_of(world.store, "s")).values()
        assert len(doc["versions"]) == KEPT
        assert noted(doc, "s", world.packages[package_id(NAME)], 5) is None, "nothing is written for nothing"
        package = world.packages[package_id(NAME)]
        await asyncio.gather(*(note_sent(world.store, "s", package, world.ms) for _ in range(3)))
        (doc,) = (await versions_of(world.store, "s")).values()
        assert doc["versions"][0]["sent"] == world.ms
        assert LANDING_MS > 3_600_000
        kept = dict(world.packages)
        world.packages.clear()
        for _ in range(2):
            await world.look(after_s=100 * 86_400)
            assert await versions_of(world.store, "s")
            await world.look()
            assert await versions_of(world.store, "s")
            world.packages |= kept  # its record was damaged, and came back
            await world.look()
            world.packages.clear()
        await world.look(after_s=100 * 86_400)
        await world.look(after_s=100 * 86_400)
        assert await versions_of(world.store, "s")
        await world.look(after_s=30 * 86_400)
        assert not await versions_of(world.store, "s")

    in_world(tmp_path, test)


def test_digests_and_marks_are_compared_by_what_both_have() -> None:
    assert agree({"md5": "a", "sha3_512": "b"}, {"md5": "A"}) is True
    assert agree({"md5": "a", "sha3_512": "b"}, {"md5": "a", "sha3_512": "c"}) is False
    assert agree({"md5": "a"}, {"sha3_512": "b"}) is None
    assert agree({"md5": "a"}, {"md5": "", "sha3_512": "b"}) is None
    assert same_mark("5:a", "None:a")
    assert not same_mark("5:a", "6:a")
    assert not same_mark("5:a", "")
    assert same_mark("", "")
