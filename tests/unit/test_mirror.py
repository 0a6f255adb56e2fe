"""Package records that are kept in an MDM: created once, never overwritten by mistake, cheap when nothing changed."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.mdm_errors import MdmBusy, MdmError, MdmNeedsAttention, MdmRefused, MdmUnreachable
from appliance.domain.names import package_id
from appliance.domain.package import Presence
from jamf_bridge.driver import CloudState
from jamf_bridge.mirror.mirroring import AT_ONCE, MirrorSummary
from tests.fakes.driver_d import Killed
from tests.unit.mirroring import DAY, Desk, further, package, with_desk


def test_a_package_gets_a_record_with_its_hashes(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("Firefox-134.0.pkg", metadata={"who": "me"}))
        assert await desk.run() == MirrorSummary(written=1)
        (record,) = desk.mdm.named("Firefox-134.0.pkg")
        assert record.name == "Firefox-134.0"
        assert record.hashes["sha3_512"] == hashlib.sha3_512(b"Firefox-134.0.pkg").hexdigest()
        assert "Firefox-134.0.pkg" in record.fields["notes"]
        link = await desk.link("Firefox-134.0.pkg")
        assert (link["state"], link["remote_id"], link["ours"]) == ("mirrored", record.id, True)
        (event,) = await desk.events("mdm.record_written")
        assert event["subject"] == package_id("Firefox-134.0.pkg")
        assert event["data"]["created"] is True

    with_desk(tmp_path, test)


def test_what_is_up_to_date_costs_nothing(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for number in range(30):
            await desk.put(package(f"P{number}.pkg"))
        desk.mdm.store("C.pkg", b"C.pkg")
        await desk.put(package("C.pkg"))
        await desk.run()
        assert desk.mdm.most_at_once <= AT_ONCE
        desk.mdm.calls.clear()
        desk.store.writes = 0
        assert await desk.run() == MirrorSummary(unchanged=31)
        assert desk.mdm.calls == ["list"]
        assert desk.store.writes == 0

    with_desk(tmp_path, test)


def test_only_the_stages_that_are_mirrored(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg", stage="dev"))
        assert await desk.run() == MirrorSummary()
        desk.configure(stages=["dev", "prod"])
        assert await desk.run() == MirrorSummary(written=1)
        desk.configure(stages=["prod"])
        assert await desk.run() == MirrorSummary()
        assert desk.mdm.named("A.pkg"), "a package that leaves the stages keeps its record"

    with_desk(tmp_path, test)


def test_a_change_is_sent_and_what_a_person_wrote_stays(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(notes="{{ notes }}")
        await desk.put(package("A.pkg", notes="one"))
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        await desk.put(package("A.pkg", notes="two"), revision=2)
        assert await desk.run() == MirrorSummary(written=1)
        assert desk.mdm.packages[record.id].fields["notes"] == "two"
        desk.mdm.edit(record.id, fields={"notes": "by hand"})
        await desk.put(package("A.pkg", notes="three"), revision=3)
        await desk.run()
        assert desk.mdm.packages[record.id].fields["notes"] == "by hand"

    with_desk(tmp_path, test)


def test_a_new_template_reaches_records_that_nobody_touched(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        desk.configure(notes="other")
        assert await desk.run() == MirrorSummary(written=1)
        assert desk.mdm.named("A.pkg")[0].fields["notes"] == "other"

    with_desk(tmp_path, test)


def test_hashes_are_computed_first_where_the_bytes_are(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg", hashes={}))
        assert await desk.run() == MirrorSummary(waiting=1)
        assert desk.digests.asked == [package_id("A.pkg")]
        assert not desk.mdm.packages
        link = await desk.link("A.pkg")
        assert (link["state"], link["error"]) == ("waiting", "Its hashes are being computed.")
        desk.store.writes = 0
        assert await desk.run() == MirrorSummary(waiting=1)
        assert desk.store.writes == 0, "waiting costs no writes"
        await desk.put(package("A.pkg"), revision=2)
        assert await desk.run() == MirrorSummary(written=1)

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("presence", "hashes", "expected"),
    [
        (Presence.NOT_ADMITTED, {}, MirrorSummary(written=1)),
        (Presence.WAITING, {}, MirrorSummary(waiting=1)),
        (Presence.DAMAGED, {}, MirrorSummary(waiting=1)),
        (Presence.ARRIVING, {}, MirrorSummary(waiting=1)),
        (Presence.ARRIVING, further(b"A.pkg"), MirrorSummary(waiting=1)),
        (Presence.WAITING, further(b"A.pkg"), MirrorSummary(written=1)),
    ],
)
def test_bytes_that_are_not_here(
    tmp_path: Path, presence: Presence, hashes: dict[str, str], expected: MirrorSummary
) -> None:
    async def test(desk: Desk) -> None:
        away = replace(package("A.pkg", hashes=hashes), presence=presence, held_sha256="", held_filename="")
        await desk.put(away)
        assert await desk.run() == expected
        assert desk.digests.asked == []

    with_desk(tmp_path, test)


def test_a_record_that_was_there_is_merged_and_not_ours(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        there = desk.mdm.by_hand("A.pkg", fields={"notes": "mine"})
        await desk.put(package("A.pkg"))
        assert await desk.run() == MirrorSummary(written=1)
        assert desk.mdm.packages[there.id].fields == {"notes": "mine"}
        assert desk.mdm.packages[there.id].hashes["sha3_512"]
        assert not (await desk.link("A.pkg"))["ours"]
        assert len(desk.mdm.packages) == 1

    with_desk(tmp_path, test)


def test_names_are_compared_in_nfc_and_exactly(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        decomposed = desk.mdm.by_hand("Gro\u0308ße.pkg")
        desk.mdm.by_hand("GRÖSSE.pkg")
        await desk.put(package("Größe.pkg"))
        await desk.run()
        assert (await desk.link("Größe.pkg"))["remote_id"] == decomposed.id

    with_desk(tmp_path, test)


def test_a_hash_that_was_changed_by_hand_is_mended(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        for _ in range(2):  # the same mistake twice
            desk.mdm.edit(record.id, hashes={"md5": "0" * 32})
            assert await desk.run() == MirrorSummary(written=1)
            assert desk.mdm.packages[record.id].hashes["md5"] != "0" * 32
            assert await desk.run() == MirrorSummary(unchanged=1)

    with_desk(tmp_path, test)


def test_an_mdm_that_keeps_a_wrong_hash_is_not_asked_for_ever(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        stuck = replace(record, hashes={**record.hashes, "md5": "0" * 32})
        await desk.run([stuck])
        desk.mdm.calls.clear()
        assert await desk.run([stuck]) == MirrorSummary(unchanged=1)
        assert desk.mdm.calls == []

    with_desk(tmp_path, test)


def test_a_record_that_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        desk.mdm.packages.clear()
        assert await desk.run() == MirrorSummary(waiting=1, missing=1), "one listing is no proof"
        assert not desk.mdm.packages
        assert await desk.run() == MirrorSummary(written=1)
        (record,) = desk.mdm.named("A.pkg")
        link = await desk.link("A.pkg")
        assert (link["remote_id"], link["ours"]) == (record.id, True)

    with_desk(tmp_path, test)


def test_a_listing_that_lags_behind_neither_doubles_nor_disowns(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
        assert (await desk.link("A.pkg"))["state"] == "mirrored"
        for _ in range(3):
            await desk.run([])
        assert len(desk.mdm.packages) == 1
        assert (await desk.link("A.pkg"))["ours"]
        assert await desk.run() == MirrorSummary(unchanged=1)

    with_desk(tmp_path, test)


@pytest.mark.parametrize("cloud", [False, True])
def test_only_lists_in_a_row_that_lack_a_record_count(tmp_path: Path, cloud: bool) -> None:
    async def test(desk: Desk) -> None:
        if cloud:
            desk.mdm.store("A.pkg", b"A.pkg")
        await desk.put(package("A.pkg"))
        await desk.run()
        for _ in range(3):
            assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
            assert (await desk.link("A.pkg"))["misses"] == 1
            assert await desk.run() == MirrorSummary(unchanged=1)
            assert (await desk.link("A.pkg"))["misses"] == 0
        desk.store.writes = 0
        await desk.run()
        assert desk.store.writes == 0

    with_desk(tmp_path, test)


def test_lists_that_lack_a_record_are_counted_anew_while_it_is_refused(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()

        def fault(call: str, _about: str) -> None:
            if call == "ensure":
                raise MdmRefused("not this one")

        desk.mdm.fault = fault
        await desk.put(package("A.pkg", notes="changed"), revision=2)
        assert await desk.run() == MirrorSummary(failed=1)
        for _ in range(3):
            assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
            assert await desk.run() == MirrorSummary(failed=1)
            assert (await desk.link("A.pkg"))["misses"] == 0

    with_desk(tmp_path, test)


def test_nothing_is_created_from_a_listing_that_cannot_be_believed(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(package("B.pkg"))
        for _ in range(3):
            assert await desk.run([], whole=False) == MirrorSummary(waiting=2, missing=2)
        assert len(desk.mdm.packages) == 1
        assert "read again" in (await desk.link("B.pkg"))["error"]
        assert (await desk.link("A.pkg"))["state"] == "mirrored"
        desk.store.writes = 0
        await desk.run([], whole=False)
        assert desk.store.writes == 0, "waiting costs no writes"
        assert await desk.run() == MirrorSummary(written=1, unchanged=1)

    with_desk(tmp_path, test)


def test_our_record_that_a_listing_lacks_is_not_given_up_for_another_of_its_name(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        (ours,) = desk.mdm.named("A.pkg")
        theirs = desk.mdm.by_hand("A.pkg")
        assert await desk.run([theirs]) == MirrorSummary(waiting=1, missing=1)
        link = await desk.link("A.pkg")
        assert (link["remote_id"], link["ours"]) == (ours.id, True)
        assert await desk.run() == MirrorSummary(unchanged=1)
        del desk.mdm.packages[ours.id]
        await desk.run()
        await desk.run()
        link = await desk.link("A.pkg")
        assert (link["remote_id"], link["ours"]) == (theirs.id, False)

    with_desk(tmp_path, test)


def test_verify_asks_about_every_record(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        await desk.run()
        desk.mdm.calls.clear()
        assert await desk.run(verify=True) == MirrorSummary(unchanged=1)
        assert desk.mdm.calls == ["list", "ensure A.pkg"]

    with_desk(tmp_path, test)


# Crashes


def kill_at(call: str) -> Callable[[str, str], None]:
    def fault(name: str, _about: str) -> None:
        if name == call:
            raise Killed

    return fault


@pytest.mark.parametrize("moment", ["ensure", "created"])
def test_a_kill_around_the_creation_leaves_one_record_of_ours(tmp_path: Path, moment: str) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        for _ in range(3):
            desk.mdm.fault = kill_at(moment)
            with pytest.raises(BaseExceptionGroup):
                await desk.run()
            desk.mdm.fault = lambda _call, _about: None
            if moment == "created":
                break
        link = await desk.link("A.pkg")
        assert (link["state"], link["absent"]) == ("creating", True)
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        link = await desk.link("A.pkg")
        assert (link["state"], link["remote_id"], link["ours"]) == ("mirrored", record.id, True)
        assert len(desk.mdm.packages) == 1

    with_desk(tmp_path, test)


def test_after_a_lost_answer_a_listing_that_lags_finds_our_record_again(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        desk.mdm.fault = kill_at("created")
        with pytest.raises(BaseExceptionGroup):
            await desk.run()
        desk.mdm.fault = lambda _call, _about: None
        await desk.run([])  # the new record is not listed yet; the driver finds it when it looks again
        assert len(desk.mdm.packages) == 1
        assert (await desk.link("A.pkg"))["ours"]

    with_desk(tmp_path, test)


def test_a_record_that_a_person_makes_meanwhile_is_theirs(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        desk.mdm.fault = kill_at("ensure")
        with pytest.raises(BaseExceptionGroup):
            await desk.run()
        desk.mdm.fault = lambda _call, _about: None
        desk.mdm.by_hand("A.pkg", fields={"notes": "mine"})
        await desk.run()
        assert not (await desk.link("A.pkg"))["ours"]
        desk.configure(withdrawal="delete")
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run()
        assert desk.mdm.named("A.pkg"), "what we did not make is not deleted"

    with_desk(tmp_path, test)


# Errors


@pytest.mark.parametrize("error", [MdmUnreachable, MdmBusy, MdmNeedsAttention, MdmError])
def test_an_error_of_the_server_ends_the_run_and_loses_nothing(tmp_path: Path, error: type[MdmError]) -> None:
    async def test(desk: Desk) -> None:
        for number in range(40):
            await desk.put(package(f"P{number:02}.pkg"))
        done: list[str] = []

        def fault(call: str, about: str) -> None:
            if call == "ensure" and len(done) >= 10:
                raise error("not now")
            done.append(about)

        desk.mdm.fault = fault
        with pytest.raises(error):
            await desk.run()
        assert desk.mdm.most_at_once <= AT_ONCE
        assert len([call for call in desk.mdm.calls if call.startswith("ensure")]) < 20, "no more were begun"
        desk.mdm.fault = lambda _call, _about: None
        summary = await desk.run()
        assert summary.failed == 0
        assert summary.written + summary.unchanged == 40
        assert len(desk.mdm.packages) == 40

    with_desk(tmp_path, test)


def test_a_refusal_concerns_one_package_and_is_tried_less_and_less_often(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("bad.pkg"))
        await desk.put(package("good.pkg"))

        def fault(call: str, about: str) -> None:
            if call == "ensure" and about == "bad.pkg":
                raise MdmRefused("UNSUPPORTED_FILE_TYPE")

        desk.mdm.fault = fault
        assert await desk.run() == MirrorSummary(written=1, failed=1)
        link = await desk.link("bad.pkg")
        assert (link["state"], link["error"], link["attempts"]) == ("failed", "UNSUPPORTED_FILE_TYPE", 1)
        desk.mdm.calls.clear()
        waits = []
        for _ in range(12):
            assert await desk.run() == MirrorSummary(unchanged=1, failed=1)
            assert desk.mdm.calls == ["list"]
            before = desk.clock.ms
            desk.clock.ms = (await desk.link("bad.pkg"))["retry_at"]
            waits.append(desk.clock.ms - before)
            await desk.run()
            desk.mdm.calls.clear()
        assert waits[:4] == [60_000, 120_000, 240_000, 480_000]
        assert max(waits) == DAY // 4
        desk.mdm.fault = lambda _call, _about: None
        await desk.put(package("bad.pkg", notes="changed"), revision=2)
        assert await desk.run() == MirrorSummary(written=1, unchanged=1), "a change is tried at once"

    with_desk(tmp_path, test)


def test_a_template_that_cannot_be_filled_in_fails_that_package(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(name="{{ metadata.size / 2 }}")
        await desk.put(package("A.pkg", metadata={"size": "big"}))
        await desk.put(package("B.pkg", metadata={"size": 4}))
        assert await desk.run() == MirrorSummary(written=1, failed=1)
        assert desk.mdm.named("B.pkg")[0].name == "2.0"
        assert "unsupported operand" in (await desk.link("A.pkg"))["error"]
        desk.configure(name="{{ stem }}")
        summary = await desk.run()
        assert (summary.failed, bool(desk.mdm.named("A.pkg"))) == (0, True), "a new template is tried at once"

    with_desk(tmp_path, test)


# Withdrawal


@pytest.mark.parametrize(
    ("policy", "calls", "left"),
    [("leave", [], True), ("mark", ["mark"], True), ("delete", ["delete"], False)],
)
def test_a_withdrawal_is_carried_out_once(tmp_path: Path, policy: str, calls: list[str], left: bool) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal=policy)
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        for _ in range(3):
            await desk.run()
        found = [call.split()[2] for call in desk.mdm.calls if call.startswith("withdraw")]
        assert found == calls
        assert bool(desk.mdm.named("A.pkg")) is left
        assert (await desk.link("A.pkg"))["state"] == "withdrawn"
        await desk.put(package("A.pkg"), revision=3)
        await desk.run()
        assert len(desk.mdm.named("A.pkg")) == 1, "published again"
        assert (await desk.link("A.pkg"))["ours"]

    with_desk(tmp_path, test)


@pytest.mark.parametrize("policy", ["mark", "delete"])
def test_what_is_not_ours_is_left_at_a_withdrawal(tmp_path: Path, policy: str) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal=policy)
        desk.mdm.by_hand("A.pkg")
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run()
        assert desk.mdm.named("A.pkg")
        assert not [call for call in desk.mdm.calls if call.startswith("withdraw")]

    with_desk(tmp_path, test)


def test_bytes_that_somebody_uploaded_to_our_record_are_not_deleted_with_it(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        desk.mdm.edit(record.id, state=CloudState.READY, size=5)
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run()
        assert desk.mdm.named("A.pkg")

    with_desk(tmp_path, test)


def test_another_record_of_the_name_is_not_deleted_in_place_of_ours(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        desk.mdm.packages.clear()
        desk.mdm.by_hand("A.pkg")
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run()
        assert desk.mdm.named("A.pkg")

    with_desk(tmp_path, test)


def test_a_withdrawal_is_not_over_because_one_listing_lacks_the_record(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
        assert desk.mdm.named("A.pkg")
        assert await desk.run() == MirrorSummary(written=1)
        assert not desk.mdm.named("A.pkg")

    with_desk(tmp_path, test)


def test_a_record_that_listings_lack_is_deleted_by_its_id(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run([])
        assert await desk.run([]) == MirrorSummary(written=1)
        assert not desk.mdm.named("A.pkg")
        assert (await desk.link("A.pkg"))["state"] == "withdrawn"

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "Else.pkg"},
        {"state": CloudState.READY, "size": 5, "hashes": {"md5": "0" * 32}},
        {"state": CloudState.PENDING},
    ],
)
def test_a_record_is_read_by_its_id_before_it_is_deleted(tmp_path: Path, change: dict[str, Any]) -> None:
    """The listing is old: since then the id became another file's, or somebody uploaded to it."""

    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        listed = await desk.mdm.list_packages()
        desk.mdm.edit(listed[0].id, **change)
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run(listed)
        assert listed[0].id in desk.mdm.packages
        assert (await desk.link("A.pkg"))["state"] == "withdrawn"

    with_desk(tmp_path, test)


def test_a_package_that_is_published_again_meanwhile_keeps_its_record(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        find = desk.mdm.find_package

        async def publish_again(id: str) -> Any:
            await desk.put(package("A.pkg"), revision=3)
            return await find(id)

        desk.mdm.find_package = publish_again  # type: ignore[method-assign]
        await desk.run()
        assert desk.mdm.named("A.pkg")
        assert await desk.run() == MirrorSummary(unchanged=1)
        assert (await desk.link("A.pkg"))["ours"]

    with_desk(tmp_path, test)


def test_a_package_that_was_never_mirrored_is_withdrawn_without_a_trace(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(replace(package("A.pkg"), withdrawn=True))
        assert await desk.run() == MirrorSummary()
        assert await desk.store.count("mdm_links") == 0

    with_desk(tmp_path, test)


def test_a_refused_withdrawal_is_tried_again_later(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        await desk.run()
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)

        def fault(call: str, _about: str) -> None:
            if call == "withdraw":
                raise MdmRefused("A policy uses it.")

        desk.mdm.fault = fault
        assert await desk.run() == MirrorSummary(failed=1)
        assert await desk.run() == MirrorSummary(failed=1)
        assert len([call for call in desk.mdm.calls if call.startswith("withdraw")]) == 1
        desk.mdm.fault = lambda _call, _about: None
        desk.clock.ms += DAY
        assert await desk.run() == MirrorSummary(written=1)
        assert not desk.mdm.packages

    with_desk(tmp_path, test)


def test_of_several_records_of_a_name_the_same_one_is_kept(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        first, second = desk.mdm.by_hand("A.pkg"), desk.mdm.by_hand("A.pkg")
        await desk.put(package("A.pkg"))
        await desk.run([second, first])
        assert (await desk.link("A.pkg"))["remote_id"] == second.id
        for listed in ([first, second], [second, first]):
            fresh = [desk.mdm.packages[one.id] for one in listed]
            assert await desk.run(fresh) == MirrorSummary(unchanged=1)
        assert desk.mdm.packages[first.id] == first

    with_desk(tmp_path, test)


def test_a_link_that_somebody_wrote_meanwhile_is_left_to_the_next_run(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for name in ("A.pkg", "B.pkg"):
            await desk.put(package(name, hashes={}))
            await desk.run()
        for name in ("A.pkg", "B.pkg"):
            desk.mdm.store(name, name.encode())
        crossed = {**await desk.link("A.pkg"), "error": "crossed"}
        rev = crossed.pop("_rev")
        ensure = desk.digests.ensure

        async def crossing(one: Any) -> bool:
            if one.body.filename == "C.pkg":
                await desk.store.replace("mdm_links", crossed, expect=rev)
            return await ensure(one)

        await desk.put(package("C.pkg", hashes={}))
        desk.digests.ensure = crossing  # type: ignore[method-assign,assignment]
        await desk.run()
        desk.digests.ensure = ensure  # type: ignore[method-assign]
        assert (await desk.link("A.pkg"))["error"] == "crossed"
        assert (await desk.link("B.pkg"))["state"] == "mirrored"
        await desk.run()
        assert (await desk.link("A.pkg"))["state"] == "mirrored"

    with_desk(tmp_path, test)


def test_a_conflict_that_only_the_driver_sees_is_told_once(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        desk.mdm.store("A.pkg", b"other")  # after the listing was made
        assert await desk.run([]) == MirrorSummary(conflicts=1)
        assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
        for _ in range(3):
            desk.clock.ms += DAY
            assert await desk.run([]) == MirrorSummary(conflicts=1)
            assert await desk.run([]) == MirrorSummary(waiting=1, missing=1)
        assert len(await desk.events("mdm.record_conflict")) == 1
        assert not (await desk.link("A.pkg"))["ours"]
        calls = len(desk.mdm.calls)
        assert await desk.run([]) == MirrorSummary(conflicts=1)
        assert len(desk.mdm.calls) == calls, "not asked again at each run"

    with_desk(tmp_path, test)


def test_a_refusal_after_a_lost_answer_does_not_forget_that_the_record_may_be_ours(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await desk.put(package("A.pkg"))
        desk.mdm.fault = kill_at("created")
        with pytest.raises(BaseExceptionGroup):
            await desk.run()

        def refuse(call: str, _about: str) -> None:
            if call == "ensure":
                raise MdmRefused("DUPLICATE_FIELD packageName")

        desk.mdm.fault = refuse
        assert await desk.run([]) == MirrorSummary(failed=1)
        desk.mdm.fault = lambda _call, _about: None
        desk.clock.ms += DAY
        await desk.run()
        assert (await desk.link("A.pkg"))["ours"]

    with_desk(tmp_path, test)


def test_a_file_that_a_person_uploads_meanwhile_is_theirs(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(withdrawal="delete")
        await desk.put(package("A.pkg"))
        desk.mdm.fault = kill_at("ensure")
        with pytest.raises(BaseExceptionGroup):
            await desk.run()
        desk.mdm.fault = lambda _call, _about: None
        desk.mdm.store("A.pkg", b"A.pkg")  # the same bytes
        await desk.run()
        link = await desk.link("A.pkg")
        assert (link["state"], link["ours"]) == ("mirrored", False)
        await desk.put(replace(package("A.pkg"), withdrawn=True), revision=2)
        await desk.run()
        assert desk.mdm.named("A.pkg")

    with_desk(tmp_path, test)


def test_two_nodes_that_wrote_one_revision(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(notes="{{ notes }}")
        await desk.put(package("A.pkg", notes="one"), at=5)
        await desk.run()
        await desk.put(package("A.pkg", notes="the other won"), at=6)
        assert await desk.run() == MirrorSummary(written=1)
        assert desk.mdm.named("A.pkg")[0].fields["notes"] == "the other won"

    with_desk(tmp_path, test)
