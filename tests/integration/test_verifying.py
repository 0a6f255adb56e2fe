"""The look at every held file, what is set aside, and complaints of peers; without a network."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.domain.errors import BlobMissing, StoreUnavailable
from appliance.domain.package import Package, Presence
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.service.verifying import COMPLAINTS, Verifying
from appliance.store.blobs import Stamp
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import manifest_of

from .test_digests import Clock, Node

DAY_MS = 86_400_000
DATA = b"the bytes of a package" * 1000


class Checked(Node):
    """A node that knows which files it has verified."""

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        super().__init__(store, root, clock)
        self.begin()

    def begin(self) -> None:
        """Know nothing, as at a start."""
        self.verified = VerifiedBlobs(
            store=self.store, blobs=self.blobs, catalogue=self.catalogue, now=self.clock
        )
        self.holdings._verified = self.packages._verified = self.verified
        self.verifying = Verifying(
            store=self.store, catalogue=self.catalogue, blobs=self.blobs, holdings=self.holdings,
            verified=self.verified, trash=self.trash, now=self.clock, keep_damaged_ms=7 * DAY_MS,
        )  # fmt: skip

    async def put(self, name: str = "A.pkg", data: bytes = DATA, **more: object) -> Package:
        """Publish as an upload does."""
        upload = self.layout.upload("u")
        upload.write_bytes(data)
        committed = self.blobs.commit(upload, manifest_of(data).sha256)
        fields = {"stage": "prod", "tags": (), "notes": "", "metadata": {}, "actor": "me", "replace": False}
        package, _ = await self.packages.publish(
            manifest=manifest_of(data), filename=name, committed=committed, **{**fields, **more}
        )
        return package

    def file(self, package: Package) -> Path:
        return self.blobs.path(package.body.sha256)


def on_node(tmp_path: Path, test: Callable[[Checked], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store(None, tmp_path)
        try:
            await test(Checked(store, tmp_path, Clock()))
        finally:
            await store.close()

    asyncio.run(go())


def test_a_look_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        await here.put()
        await here.put("B.pkg")
        await here.put("C.pkg", b"")
        for _ in range(2):
            looked = await here.verifying.look()
            assert (looked.files, looked.lost, looked.changed, looked.unknown, looked.names) == (
                2,
                [],
                [],
                [],
                [],
            )
            here.begin()  # and in the next life, from what is stored

    on_node(tmp_path, test)


def test_public_names_are_made_again(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        await here.put("A.pkg")
        await here.put("B.pkg")
        await here.put("C.pkg")
        names = here.layout.packages
        (names / "A.pkg").unlink()
        (names / "B.pkg").unlink()
        (names / "B.pkg").write_bytes(b"other bytes")
        (names / "C.pkg").unlink()
        (names / "C.pkg").mkdir()
        looked = await here.verifying.look()
        assert len(looked.names) == 3
        assert {path.name: path.read_bytes() for path in names.iterdir()} == {
            "A.pkg": DATA, "B.pkg": DATA, "C.pkg": DATA,
        }  # fmt: skip

    on_node(tmp_path, test)


def test_files_from_before_are_served_and_verified_first(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        package = await here.put()
        await here.store.delete("verified", {"_id": package.body.sha256})
        here.begin()
        stamp = Stamp.of(here.file(package).stat())
        await here.verifying.check(package, stamp)
        known = here.verified.get(package.body.sha256)
        assert known is not None
        assert (known.stamp, known.at) == (stamp, 0)
        os.utime(here.file(package), ns=(1, 1))
        await here.verifying.check(package, Stamp.of(here.file(package).stat()))  # it is read, and right
        assert (here.verified.get(package.body.sha256) or known).at > 0

    on_node(tmp_path, test)


def test_downloads_are_checked_while_the_database_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(here: Checked) -> None:
        right, wrong = await here.put(), await here.put("B.pkg", b"other bytes")

        async def down(*_: object, **__: object) -> None:
            raise StoreUnavailable

        for name in ("get", "batch", "find", "replace", "delete", "enqueue"):
            monkeypatch.setattr(here.store, name, down)
        await here.verifying.check(right, Stamp.of(here.file(right).stat()))
        os.utime(here.file(right), ns=(1, 1))
        await here.verifying.check(right, Stamp.of(here.file(right).stat()))
        here.file(wrong).write_bytes(b"wrong bytes")
        with pytest.raises(BlobMissing):
            await here.verifying.check(wrong, Stamp.of(here.file(wrong).stat()))
        assert not here.file(wrong).exists(), "it is set aside all the same"

    on_node(tmp_path, test)


def test_what_was_opened_is_what_was_verified(tmp_path: Path) -> None:
    """A file that was replaced by a right one meanwhile is open still, and must not be sent."""

    async def test(here: Checked) -> None:
        package = await here.put()
        here.file(package).write_bytes(b"x" * len(DATA))
        os.utime(here.file(package), ns=(1, 1))
        opened = Stamp.of(here.file(package).stat())
        await here.put("B.pkg")
        with pytest.raises(BlobMissing):
            await here.verifying.check(package, opened)
        await here.verifying.check(package, Stamp.of(here.file(package).stat()))
        assert (here.layout.packages / "A.pkg").read_bytes() == DATA

    on_node(tmp_path, test)


def test_all_names_of_a_file_that_is_whole_again_are_told(tmp_path: Path) -> None:
    """One of them is settled first; who looks at that moment must not tell of it alone."""

    async def test(here: Checked) -> None:
        one = await here.put()
        await here.put("B.pkg")
        here.file(one).write_bytes(b"wrong bytes")
        await here.verifying.look()
        assert {here.package(name).presence for name in ("A.pkg", "B.pkg")} == {Presence.DAMAGED}
        upload = here.layout.upload("again")
        upload.write_bytes(DATA)
        committed = here.blobs.commit(upload, one.body.sha256)
        await here.store.batch([here.verified.remember(one.body.sha256, committed.stamp)])
        await here.holdings.settle(one.id)
        assert here.package("B.pkg").presence is Presence.DAMAGED
        await here.verifying.notice_repairs()
        assert {here.package(name).presence for name in ("A.pkg", "B.pkg")} == {Presence.HELD}
        assert (await here.events()).count("package.repaired") == 2

    on_node(tmp_path, test)


def test_what_is_set_aside_stays_while_it_may_be_needed(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        here.clock.ms = time.time_ns() // 1_000_000  # files have real times
        wanted, gone = await here.put(), await here.put("B.pkg", b"gone soon")
        for package in (wanted, gone):
            here.file(package).write_bytes(b"wrong bytes")
        await here.verifying.look()
        assert {here.package(name).presence for name in ("A.pkg", "B.pkg")} == {Presence.DAMAGED}
        await here.packages.withdraw(gone.id, actor="me")
        await here.verifying.look()
        assert len(here.blobs.quarantined()) == 2
        here.clock.ms += 8 * DAY_MS
        await here.verifying.look()
        assert [sha256 for sha256, _ in here.blobs.quarantined()] == [wanted.body.sha256]
        assert await here.store.count("damaged", {"repaired_at": 0}) == 1
        await here.put(replace=True)
        assert here.package("A.pkg").presence is Presence.HELD
        await here.verifying.notice_repairs()
        assert here.blobs.quarantined() == []
        events = await here.events()
        assert events.count("package.repaired") == 1
        assert await here.store.count("damaged", {"repaired_at": 0}) == 0

    on_node(tmp_path, test)


def test_each_repair_is_counted(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        for repairs in (1, 2):
            package = await here.put()
            here.file(package).write_bytes(b"wrong bytes")
            await here.verifying.look()
            assert await here.store.count("damaged", {"repaired_at": {"gt": 0}}) == repairs - 1
            await here.put()
            await here.verifying.notice_repairs()
            assert await here.store.count("damaged", {"repaired_at": {"gt": 0}}) == repairs
            assert await here.store.count("damaged", {"repaired_at": 0}) == 0
            here.clock.ms += 1000
        here.file(package).write_bytes(b"wrong bytes")
        await here.verifying.look()
        await here.packages.withdraw(package.id, actor="me")
        await here.verifying.notice_repairs()
        assert await here.store.count("damaged", {"repaired_at": {"gt": 0}}) == 2, "it is no repair"
        assert await here.store.count("damaged", {"repaired_at": 0}) == 0

    on_node(tmp_path, test)


def test_damage_outlives_a_change_of_tags(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        package = await here.put()
        here.file(package).write_bytes(b"wrong bytes")
        await here.verifying.look()
        for stage in ("dev", "prod"):
            changed = await here.packages.change(package.id, stage=stage, actor="me")
            assert changed.presence is Presence.DAMAGED
            await here.verifying.notice_repairs()
        here.begin()
        await here.verifying.look()
        assert (await here.holdings.settle(package.id) or package).presence is Presence.DAMAGED

    on_node(tmp_path, test)


def test_what_cannot_be_set_aside_is_not_served_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(here: Checked) -> None:
        package = await here.put()
        here.file(package).write_bytes(b"x" * len(DATA))

        def refuse(_: str) -> None:
            from appliance.domain.errors import StorageError

            raise StorageError

        monkeypatch.setattr(here.blobs, "quarantine", refuse)
        with pytest.raises(BlobMissing):
            await here.verifying.check(package, Stamp.of(here.file(package).stat()))
        assert here.package("A.pkg").presence is Presence.DAMAGED
        await here.holdings.settle(package.id)
        assert here.package("A.pkg").held_sha256 == ""
        assert await here.store.count("jobs") == 0, "it is known to be damaged"

    on_node(tmp_path, test)


def test_a_peer_that_lies_costs_a_bounded_number_of_readings(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        packages = [await here.put(f"{number}.pkg", b"%d" % number) for number in range(COMPLAINTS + 5)]
        answers = [await here.verifying.complained("liar", package) for package in packages * 2]
        assert sum(answers) == COMPLAINTS
        assert await here.verifying.complained("other", packages[-1])
        assert not await here.verifying.complained("other", packages[0]), "it was verified a moment ago"
        assert await here.store.count("jobs") == COMPLAINTS + 1

    on_node(tmp_path, test)


def test_what_is_noted_of_blobs_that_are_gone_is_forgotten(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        package = await here.put()
        await here.put("B.pkg", b"stays")
        await here.packages.withdraw(package.id, actor="me")
        assert await here.store.count("verified") == 2
        here.blobs.path(package.body.sha256).unlink(missing_ok=True)
        await here.verifying.look()
        assert await here.store.count("verified") == 1

    on_node(tmp_path, test)


def test_more_damage_than_a_page_holds_is_repaired_once(tmp_path: Path) -> None:
    async def test(here: Checked) -> None:
        await here.put()
        for number in range(1203):
            doc = {"_id": f"{number:064}", "at": 1, "reason": "gone", "repaired_at": 0}
            await here.store.replace("damaged", doc)
        await here.verifying.load()
        await here.verifying.notice_repairs()
        assert await here.store.count("damaged", {"repaired_at": 0}) == 0

    on_node(tmp_path, test)
