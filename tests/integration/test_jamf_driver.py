"""The driver for Jamf Pro, and syncs on it, against the stand-in in this process: answers are not what they seem."""

import asyncio
import random
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.mdm_errors import MdmError, MdmRefused, MdmUnreachable
from jamf_bridge.catching_up import CatchingUp
from jamf_bridge.driver import CloudState, NodeFacts, PackageFacts
from jamf_bridge.jamf import session
from jamf_bridge.jamf_driver import JamfDriver, JamfSettings, known
from jamf_bridge.jamf_driver.records import remote_package
from jamf_bridge.jobs import sync_job
from tests.fakes.jamf.state import PACKAGE_DEFAULTS, Content
from tests.integration.test_jamf_both_sides import Sides, both_sides

NAME = "Tool.pkg"


def with_jamf(root: Path, test: Callable[[Sides, JamfDriver, str], Awaitable[None]], **jamf: Any) -> None:
    """Run a test with a Jamf Pro and a driver for it."""

    async def go() -> None:
        async with both_sides(root, random.Random(0), **jamf) as (sides, url):
            driver = JamfDriver(
                JamfSettings(
                    url=url,
                    client_id=sides.jamf.client_id,
                    client_secret=sides.jamf.client_secret,
                    insecure=True,
                )
            )
            try:
                await test(sides, driver, url)
            finally:
                await driver.close()

    asyncio.run(go())


def facts(**changes: Any) -> PackageFacts:
    values: dict[str, Any] = {
        "id": "p" * 32, "file_name": NAME, "size": 5, "hashes": {"sha3_512": "a" * 128, "md5": "b" * 32},
        "stage": "prod", "tags": (), "notes": "", "metadata": {}, "revision": 1, "uploaded_by": "me",
        "uploaded_at": 0, "record_name": "Tool", "record_notes": "ours",
    }  # fmt: skip
    return PackageFacts(**{**values, **changes})


def record(sides: Sides, **fields: Any) -> str:
    """A record that is there already."""
    id = sides.jamf.new_id()
    sides.jamf.packages[id] = {**PACKAGE_DEFAULTS, "packageName": "Tool", "fileName": NAME, **fields}
    return str(id)


def names(sides: Sides) -> list[str]:
    return sorted(str(one["packageName"]) for one in sides.jamf.packages.values())


@pytest.mark.parametrize("word", ["DUPLICATE_FIELD", "409", "NOT_UNIQUE", "That name already exists"])
@pytest.mark.parametrize("name", ["Tool", NAME])
def test_a_name_that_exists_means_to_look_again_and_never_another_name(
    tmp_path: Path, word: str, name: str
) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        id = record(sides, packageName=name)
        sides.jamf.faults.duplicate = word
        sides.jamf.faults.empty_lists = 100
        for _ in range(3):
            with pytest.raises(MdmRefused, match="looks again"):
                await driver.ensure_package_record(facts(record_name=name), remote=None, sent={})
        assert names(sides) == [name]
        sides.jamf.faults.empty_lists = 1  # the look-up before is wrong, the one after the refusal is right
        found = await driver.ensure_package_record(facts(record_name=name), remote=None, sent={})
        assert (found.remote_id, found.created) == (id, False)
        assert names(sides) == [name]

    with_jamf(tmp_path, test)


def test_another_name_is_taken_only_if_the_one_that_has_it_is_shown(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        record(sides, fileName="Tool.dmg")
        made = await driver.ensure_package_record(facts(), remote=None, sent={})
        assert made.created
        assert names(sides) == ["Tool", NAME]
        record(sides, packageName="Other", fileName="Other.dmg")
        record(sides, packageName="Other.pkg", fileName="Another.dmg")
        with pytest.raises(MdmRefused, match=r"mirror\.name"):
            await driver.ensure_package_record(
                facts(file_name="Other.pkg", record_name="Other"), remote=None, sent={}
            )
        assert len(sides.jamf.packages) == 4

    with_jamf(tmp_path, test)


def test_a_record_whose_name_is_in_parts_is_found_by_the_name_in_one(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        id = record(sides, packageName="Else", fileName="Gro\u0308\u00dfe.pkg")
        ours = facts(file_name="Gr\u00f6\u00dfe.pkg")
        found = await driver.ensure_package_record(ours, remote=None, sent={})
        assert (found.remote_id, found.created) == (id, False)

    with_jamf(tmp_path, test)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_a_file_of_the_cloud_is_found_by_its_record_whose_name_is_in_another_form(
    tmp_path: Path, forms: tuple[Any, Any]
) -> None:
    async def test(sides: Sides, driver: JamfDriver, url: str) -> None:
        name, stored = (unicodedata.normalize(form, "Gr\u00f6\u00dfe.pkg") for form in forms)
        sides.jamf.admin_upload(name, Content(data=b"bytes"), pending_s=0)
        sides.jamf.cloud = {stored: sides.jamf.cloud.pop(name)}
        (listed,) = await driver.list_packages()
        assert (listed.state, listed.size) == (CloudState.READY, 5)
        again = await driver.find_package(listed.id)
        assert again is not None
        assert again.mark == listed.mark
        fresh = JamfDriver(driver._settings)  # as in another process, which listed nothing
        try:
            assert b"".join([block async for block in fresh.open_package(listed, 0)]) == b"bytes"
        finally:
            await fresh.close()
        await sides.connect(url)
        for _ in range(2):
            sides.clock.ms += 61_000
            await sides.node.store.enqueue(sync_job(sides.server, sides.clock()))
            await sides.run_jobs()
        assert sides.node.package("Gr\u00f6\u00dfe.pkg").held_sha256

    with_jamf(tmp_path, test)


def test_who_has_the_name_is_said_if_no_other_name_is_left(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        record(sides, packageName=NAME, fileName="Else.pkg")
        with pytest.raises(MdmRefused, match=r"other records called \"Tool\.pkg\"\. Rename"):
            await driver.ensure_package_record(facts(record_name=NAME), remote=None, sent={})
        assert len(sides.jamf.packages) == 1

    with_jamf(tmp_path, test)


def test_what_is_known_by_its_id_is_found_although_lists_and_look_ups_are_empty(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        id = record(sides)
        sides.jamf.faults.empty_lists = 100
        found = await driver.ensure_package_record(facts(), remote=None, known_id=id, sent={})
        assert (found.remote_id, found.created) == (id, False)
        there = await driver.find_package(id)
        assert there is not None
        assert (there.file_name, there.state) == (NAME, CloudState.NONE)
        assert await driver.find_package("999") is None
        # An id that is another file's by now is not ours.
        sides.jamf.packages[int(id)]["fileName"] = "Else.pkg"
        sides.jamf.packages[int(id)]["packageName"] = "Else"
        sides.jamf.faults.empty_lists = 0
        other = await driver.ensure_package_record(facts(), remote=None, known_id=id, sent={})
        assert other.created
        # Listed, and not there by its id: the next list tells.
        sides.jamf.packages.clear()
        gone = await driver.ensure_package_record(facts(), remote=there, known_id=id, sent={})
        assert (gone.pending, gone.changed) == (True, False)
        assert not sides.jamf.packages

    with_jamf(tmp_path, test)


@pytest.mark.parametrize(("status", "error"), [(400, MdmRefused), (500, MdmError)])
def test_a_record_that_fails_by_its_id_is_no_fault_of_the_server(
    tmp_path: Path, status: int, error: type[MdmError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TRIES", 1)

    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        id = record(sides)
        sides.jamf.faults.refuse = {f"/api/v1/packages/{id}": [status, 1]}
        with pytest.raises(error) as caught:
            await driver.find_package(id)
        assert type(caught.value) is error
        assert await driver.find_package(id) is not None

    with_jamf(tmp_path, test)


@pytest.mark.parametrize("status", [403, 404])
def test_the_list_of_cloud_files_is_asked_for_at_every_look(tmp_path: Path, status: int) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        sides.jamf.admin_upload(NAME, Content(data=b"bytes"), pending_s=0)
        assert [one.mark[:2] for one in await driver.list_packages()] == ["5:"]
        sides.jamf.faults.refuse = {"/api/v1/jcds/files": [status, 1]}
        (blind,) = await driver.list_packages()
        assert (blind.state, blind.size) == (CloudState.READY, None)
        can = await driver.capabilities()
        assert not can.open_package
        assert "cannot be downloaded" in can.missing
        assert can.privilege_missing == (status == 403)
        assert can.missing in can.notes
        assert [one.mark[:2] for one in await driver.list_packages()] == ["5:"]
        can = await driver.capabilities()
        assert (can.open_package, can.missing) == (True, "")
        assert not [note for note in can.notes if "downloaded" in note]

    with_jamf(tmp_path, test)


def test_a_cloud_distribution_point_that_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        node = NodeFacts(
            id="n" * 52, name="n", url="https://n.example.com", record_name="ODS - n", failover=True
        )
        made = await driver.ensure_distribution_point(node, remote_id="", sent={}, known=[])
        (point,) = sides.jamf.points.values()
        assert point["backupDistributionPointId"] == "-2"
        sides.jamf.faults.refuse = {"/api/v1/cloud-distribution-point": [403, 1]}
        await driver.probe()
        can = await driver.capabilities()
        assert not can.upload_package
        assert "cannot be read" in can.missing
        listed = await driver.list_distribution_points()
        again = await driver.ensure_distribution_point(
            node, remote_id=made.remote_id, sent=made.sent, known=listed
        )
        assert not again.changed
        assert point["backupDistributionPointId"] == "-2", "one refusal is no reason to write"
        with pytest.raises(MdmUnreachable):
            await driver.upload_package(facts(), "1", str(tmp_path / "none"))
        monkeypatch.setattr(known, "ASK_AGAIN_S", 0.0)
        assert (await driver.capabilities()).upload_package

    with_jamf(tmp_path, test)


def test_a_distribution_point_that_lists_lack_is_found_by_its_id_and_not_made_again(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        node = NodeFacts(id="n" * 52, name="n", url="https://n.example.com", record_name="ODS - n")
        made = await driver.ensure_distribution_point(node, remote_id="", sent={}, known=[])
        found = await driver.find_distribution_point(made.remote_id)
        assert found is not None
        assert found["name"] == "ODS - n"
        assert await driver.find_distribution_point("999") is None
        with pytest.raises(MdmRefused, match="looks again"):
            await driver.ensure_distribution_point(node, remote_id="", sent={}, known=[])
        assert len(sides.jamf.points) == 1

    with_jamf(tmp_path, test)


def test_hashes_that_were_written_before_an_upload_are_not_those_of_its_bytes(tmp_path: Path) -> None:
    async def test(sides: Sides, driver: JamfDriver, _url: str) -> None:
        hashes = {"sha3_512": "a" * 128, "md5": "b" * 32, "sha256": "c" * 64}
        made = await driver.ensure_package_record(facts(hashes=hashes), remote=None, sent={})
        sides.jamf.admin_upload(NAME, Content(data=b"bytes"), pending_s=0)
        assert sides.jamf.packages[int(made.remote_id)]["sha256"] == "c" * 64
        (found,) = await driver.list_packages()
        assert "sha256" not in found.hashes
        assert found.hashes["md5"] == sides.jamf.cloud[NAME].content.digests()["md5"]

    with_jamf(tmp_path, test)


def test_before_11_23_a_file_that_one_list_lacks_is_still_in_the_cloud() -> None:
    data = {"id": "1", "fileName": NAME, "size": "5", "hashType": "SHA3_512", "hashValue": "a" * 128}
    assert remote_package(data, None, listed=True).state is CloudState.PENDING
    for size in ("", "0", None):
        assert remote_package({**data, "size": size}, None, listed=True).state is CloudState.NONE
    stated = {**data, "cloudTransferStatus": ""}
    assert remote_package(stated, None, listed=True).state is CloudState.NONE


# Whole syncs


async def next_s(sides: Sides) -> float:
    """Seconds until the next look."""
    return float(((await sides.health())["health"]["next_poll_at"] - sides.clock.ms) / 1000)


def test_a_missing_ability_is_said_asked_for_again_soon_and_stops_nothing_else(tmp_path: Path) -> None:
    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        await sides.connect(url)
        await sides.sync()
        sides.jamf.privileges -= {"Read Jamf Cloud Distribution Service Files"}
        waits = []
        for _ in range(14):
            await sides.sync()
            shown = await sides.health()
            assert (shown["state"], "Distribution Service Files" in shown["reason"]) == ("attention", True)
            waits.append(await next_s(sides))
        assert max(waits) <= 61, "a poll is not put off"
        await sides.put_here("Tool-00.pkg", b"bytes")
        sides.jamf.faults.count_more = 0
        for _ in range(4):
            sides.clock.ms += 61_000
            await sides.sync()
            sides.land()
        assert sides.there("Tool-00.pkg") == b"bytes", "uploads go on"
        sides.jamf.privileges |= {"Read Jamf Cloud Distribution Service Files"}
        await sides.sync()
        shown = await sides.health()
        assert (shown["state"], shown["reason"]) == ("connected", "")
        await sides.bridge.change(
            sides.server, {"intake": {"poll_s": 3600}}, actor="me", expect_revision=None
        )
        sides.jamf.faults.refuse = {"/api/v1/jcds/files": [404, 1]}
        await sides.sync()
        assert await next_s(sides) <= 60
        assert (await sides.health())["state"] == "connected"
        assert "cannot be downloaded" in (await sides.health())["reason"]

    with_jamf(tmp_path, test)


def test_a_web_page_costs_a_minute_at_first(tmp_path: Path) -> None:
    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        await sides.connect(url)
        sides.jamf.faults.login_page = True
        waits = []
        for _ in range(5):
            await sides.sync()
            assert (await sides.health())["state"] == "attention"
            waits.append(round(await next_s(sides)))
        assert waits == [60, 120, 240, 300, 300]
        sides.jamf.faults.login_page = False
        await sides.sync()
        assert (await sides.health())["state"] == "connected"
        sides.jamf.faults.login_page = True
        await sides.sync()
        assert round(await next_s(sides)) == 60

    with_jamf(tmp_path, test)


def test_an_empty_list_is_believed_when_it_was_empty_twice(tmp_path: Path) -> None:
    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        await sides.put_here("Tool-00.pkg", b"bytes")
        await sides.connect(url, upload=False)
        await sides.sync()
        assert not sides.jamf.packages
        assert await next_s(sides) <= 5
        sides.clock.ms += 5_000
        await sides.sync()
        assert not sides.jamf.packages
        sides.clock.ms += 10_000
        await sides.sync()
        await sides.sync()
        assert sides.file_names() == ["Tool-00.pkg"]

    with_jamf(tmp_path, test)


def test_an_upload_goes_to_the_record_that_is_listed(tmp_path: Path) -> None:
    """A bridge that remembers nothing: its first look finds an earlier version in Jamf's cloud."""

    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        await sides.put_here("Tool-00.pkg", b"first")
        await sides.connect(url)
        for _ in range(6):
            sides.clock.ms += 20_000
            await sides.sync()
            sides.land()
        assert sides.there("Tool-00.pkg") == b"first"
        await sides.node.store.delete("mdm_links", {"server": sides.server})
        await sides.put_here("Tool-00.pkg", b"second")
        for _ in range(6):
            sides.clock.ms += 20_000
            await sides.sync()
            sides.land()
        assert sides.there("Tool-00.pkg") == b"second"
        assert sides.done["mdm.pull"] == 0

    with_jamf(tmp_path, test)


def test_bytes_whose_earlier_hashes_nobody_kept_are_dropped_when_they_have_come(tmp_path: Path) -> None:
    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        await sides.put_here("Tool-00.pkg", b"first")
        await sides.put_here("Tool-00.pkg", b"second")  # the first one's digests were never computed
        await sides.connect(url, enabled=False)
        sides.clock.ms += 16_000
        await sides.sync()
        sides.jamf.admin_upload("Tool-00.pkg", Content(data=b"first"), pending_s=0)
        await sides.put_here("Tool-00.pkg", b"third")  # meanwhile
        for _ in range(4):
            sides.clock.ms += 20_000
            await sides.sync()
        assert sides.here("Tool-00.pkg") == b"third"
        assert sides.done["mdm.pull"] == 1, "it is not fetched again and again"
        assert not await sides.shown()

    with_jamf(tmp_path, test)


def test_after_a_start_peers_are_read_before_the_mdm_is_asked(tmp_path: Path) -> None:
    async def test(sides: Sides, _driver: JamfDriver, url: str) -> None:
        reading = True
        caught_up = CatchingUp(lambda: reading)
        sides.bridge._syncing._caught_up = caught_up.wait
        await sides.connect(url)
        await sides.node.store.enqueue(sync_job(sides.server, sides.clock()))
        (job,) = await sides.node.store.claim("default", "w", now=sides.clock(), lease_ms=60_000, limit=1)
        task = asyncio.create_task(sides.bridge._syncing.run(job, None))  # type: ignore[arg-type]
        await asyncio.wait({task}, timeout=0.5)
        assert not task.done()
        assert not sides.jamf.journal
        reading = False
        await asyncio.wait_for(task, 10)
        assert sides.jamf.journal
        reading = True
        await asyncio.wait_for(caught_up.wait(), 1)  # once is enough

    with_jamf(tmp_path, test)
