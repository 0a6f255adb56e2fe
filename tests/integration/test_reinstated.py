"""An edit that did not know of a replacement does not undo it."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.event import EventType
from appliance.domain.names import package_id
from appliance.domain.package import PackageBody, Presence
from appliance.domain.record import Record, RecordKind
from appliance.peering.identity import Identity
from appliance.peering.records import package_body, record_json
from appliance.service.records import Records
from appliance.store.opening import open_store
from tests.builders import manifest_of

from .test_record_rules import Services, Stage, stage

__all__ = ["stage"]  # the fixture

NAME = "Thing.pkg"
ID = package_id(NAME)
ONE, TWO, THREE = b"one", b"two", b"three"


class Nodes:
    """Nodes that pass records on when they are told to. The first has the database of the stage."""

    def __init__(self, first: Services, made: Sequence[Services]) -> None:
        self.all = [first, *made]

    def __getitem__(self, number: int) -> Services:
        return self.all[number]

    async def tell(self, giver: int, taker: int) -> None:
        """Pass on all packages that one node knows."""
        records = [record_json(one) for one in await self.all[giver].feed() if one.kind is RecordKind.PACKAGE]
        await self.all[taker].intake.take(self.all[giver].identity.node_id, records)

    async def converge(self) -> PackageBody:
        """Pass all on to all until nothing is new; the body that they all end with."""
        for _ in range(6):
            for giver in range(len(self.all)):
                for taker in range(len(self.all)):
                    if giver != taker:
                        await self.tell(giver, taker)
        ends = [await newest(node) for node in self.all]
        assert len({end.signature for end in ends}) == 1
        for _ in range(2):  # and it stays so
            await self.tell(0, 1)
            await self.tell(1, 0)
        assert (await newest(self.all[0])).signature == ends[0].signature
        assert not ends[0].deleted
        return package_body(ends[0])


async def newest(node: Services) -> Record:
    record = (await node.records.known(RecordKind.PACKAGE, ID)).record
    assert record is not None
    return record


async def put(node: Services, data: bytes, **more: Any) -> None:
    """Put a file in; of what is known of the package stays what is not given."""
    given = {"stage", "tags", "notes"} & more.keys()
    await node.publish(NAME, data, **{"replace": True, "given": given, **more})


async def told(node: Services) -> list[Any]:
    """What a node says of replacements that it put back."""
    found = await node.store.find("events", {"type": str(EventType.PACKAGE_REINSTATED)}, limit=100)
    return [doc["data"] for doc in found]


Script = Callable[[Nodes], Awaitable[None]]


@pytest.fixture
def play(stage: Stage, tmp_path: Path) -> Callable[..., None]:
    """Runs a script with nodes of which all know the package with its first bytes."""

    def run(script: Script, *, nodes: int = 2) -> None:
        async def with_nodes(first: Services) -> None:
            await stage.store.delete("events", {})
            stores = [await open_store("", tmp_path / f"n{number}") for number in range(1, nodes)]
            try:
                made = Nodes(first, [
                    Services(store, tmp_path / f"d{number}", stage.files, Identity.generate())
                    for number, store in enumerate(stores)
                ])  # fmt: skip
                for node in made.all:
                    node.layout.partial("x").parent.mkdir(parents=True, exist_ok=True)
                await put(made[0], ONE, notes="old", stage="prod")
                for number in range(1, nodes):
                    await made.tell(0, number)
                for node in made.all:
                    node.time += 1000
                await script(made)
            finally:
                for store in stores:
                    await store.close()

        stage.run(with_nodes)

    return run


@pytest.mark.parametrize("author", [0, 1], ids=["replaced here", "replaced there"])
@pytest.mark.parametrize("edits", [1, 3])
def test_an_edit_does_not_undo_a_replacement(play: Callable[..., None], author: int, edits: int) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[1 - author], nodes[author]
        await put(b, TWO)
        for number in range(edits):  # each has a higher revision than the replacement
            a.time += 1000
            await a.packages.change(ID, notes=f"new {number}", actor="me")
        end = await nodes.converge()
        assert end.sha256 == manifest_of(TWO).sha256
        assert (end.notes, end.origin) == (f"new {edits - 1}", b.identity.node_id)
        assert end.replaces == (manifest_of(ONE).sha256,)
        view = b.catalogue.by_id(ID)
        assert view is not None
        assert (view.presence, view.held_sha256) == (Presence.HELD, manifest_of(TWO).sha256)
        (event,) = await told(b)
        assert (event["sha256"], event["undone"]) == (end.sha256, manifest_of(ONE).sha256)
        assert await told(a) == []
        kept = await b.store.count("superseded", {"sha256": manifest_of(TWO).sha256})
        assert not kept, "the bytes stayed where they are"

    play(script)


@pytest.mark.parametrize("by", ["stage", "tags", "metadata", "hashes"])
def test_whatever_the_edit_is_of(play: Callable[..., None], by: str) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        await put(b, TWO)
        a.time += 1000
        if by == "hashes":
            await a.packages.add_hashes(ID, manifest_of(ONE).sha256, {"md5": "0" * 32}, actor="me")
        else:
            change: dict[str, Any] = {"stage": "test", "tags": ("t",), "metadata": {"x": 1}}
            await a.packages.change(ID, **{by: change[by]}, actor="me")
        end = await nodes.converge()
        assert end.sha256 == manifest_of(TWO).sha256
        assert (end.stage == "test", end.tags == ("t",), end.metadata == {"x": 1}, end.hashes) == (
            by == "stage", by == "tags", by == "metadata", {}
        )  # fmt: skip

    play(script)


def test_what_the_edit_did_not_change_is_as_it_was_replaced(play: Callable[..., None]) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        await put(b, TWO, stage="test")
        await b.packages.change(ID, tags=("b",), actor="me")
        a.time += 1000
        await a.packages.change(ID, notes="new", actor="me")
        end = await nodes.converge()
        assert (end.sha256, end.notes) == (manifest_of(TWO).sha256, "new")
        assert (end.stage, end.tags) == ("test", ("b",)), "new bytes go no further than somebody said"

    play(script)


def test_a_withdrawal_of_what_was_replaced_leaves_the_replacement(play: Callable[..., None]) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        await put(b, TWO)
        a.time += 1000
        await a.packages.withdraw(ID, actor="me")
        end = await nodes.converge()
        assert end.sha256 == manifest_of(TWO).sha256
        (event,) = await told(b)
        assert event["withdrawn"]

    play(script)


@pytest.mark.parametrize("withdraw", [True, False])
def test_a_withdrawal_or_restore_by_who_knows_the_replacement_stands(
    play: Callable[..., None], withdraw: bool
) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        await put(b, TWO)
        await nodes.tell(1, 0)
        a.time -= 10_000  # its clock is behind
        if withdraw:
            await a.packages.withdraw(ID, actor="me")
        else:
            await put(a, ONE)
            await a.packages.change(ID, notes="back", actor="me")
        for _ in range(3):
            await nodes.tell(0, 1)
            await nodes.tell(1, 0)
        for node in nodes.all:
            record = await newest(node)
            assert (record.author, record.deleted) == (a.identity.node_id, withdraw)
        assert await told(b) == []

    play(script)


def test_a_restore_is_not_undone_by_an_edit_of_what_it_replaced(play: Callable[..., None]) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        await put(b, TWO)
        await nodes.tell(1, 0)
        await put(b, ONE)
        a.time += 1000
        await a.packages.change(ID, notes="new", actor="me")
        end = await nodes.converge()
        assert (end.sha256, end.notes) == (manifest_of(ONE).sha256, "new")

    play(script)


def test_two_replacements_and_an_edit_end_with_a_replacement(play: Callable[..., None]) -> None:
    async def script(nodes: Nodes) -> None:
        await put(nodes[1], TWO)
        nodes[2].time += 500
        await put(nodes[2], THREE)
        nodes[0].time += 1000
        await nodes[0].packages.change(ID, notes="new", actor="me")
        end = await nodes.converge()
        assert end.sha256 in {manifest_of(TWO).sha256, manifest_of(THREE).sha256}
        assert end.notes == "new"

    play(script, nodes=3)


def test_who_edited_the_replacement_puts_it_back(play: Callable[..., None]) -> None:
    async def script(nodes: Nodes) -> None:
        await put(nodes[1], TWO)
        await nodes.tell(1, 2)
        await nodes[2].packages.change(ID, tags=("c",), actor="me")
        await nodes.tell(2, 1)  # else the author of the bytes puts them back too, without these tags
        nodes[0].time += 9000
        await nodes[0].packages.change(ID, notes="new", actor="me")
        await nodes.tell(0, 2)
        end = await nodes.converge()
        assert (end.sha256, end.notes, end.tags) == (manifest_of(TWO).sha256, "new", ("c",))

    play(script, nodes=3)


def test_a_crash_in_between_only_puts_it_off(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    async def script(nodes: Nodes) -> None:
        a, b = nodes[1], nodes[0]
        await put(b, TWO)
        a.time += 1000
        await a.packages.change(ID, notes="new", actor="me")

        def crash(*_: object, **__: object) -> None:
            raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(Records, "write", crash)
            with pytest.raises(Crash):
                await nodes.tell(1, 0)
        assert package_body(await newest(b)).sha256 == manifest_of(ONE).sha256
        a.time += 1000
        await a.packages.change(ID, notes="newer", actor="me")
        nodes.all[0] = again = b.again()
        with monkeypatch.context() as patch:  # the next one is taken in before the first is put right
            patch.setattr(Records, "write", crash)
            with pytest.raises(Crash):
                await nodes.tell(1, 0)
        await again.start()
        assert package_body(await newest(again)).sha256 == manifest_of(TWO).sha256
        end = await nodes.converge()
        assert (end.sha256, end.notes) == (manifest_of(TWO).sha256, "newer")
        assert len(await told(again)) == 1

    play(script)


@pytest.mark.parametrize("first", [0, 1], ids=["it is told first", "it tells first"])
@pytest.mark.parametrize("edit", ["withdraw", "change"])
def test_a_node_that_forgot_its_own_replacement_does_not_undo_it(
    play: Callable[..., None], first: int, edit: str
) -> None:
    async def script(nodes: Nodes) -> None:
        a, b = nodes[0], nodes[1]
        kept = [doc async for doc in _all(a, "records")]
        views = [doc async for doc in _all(a, "packages")]
        await put(a, TWO)
        b.blobs.commit(_file(b, TWO), manifest_of(TWO).sha256)
        await nodes.tell(0, 1)
        view = b.catalogue.by_id(ID)
        assert view is not None
        assert view.held_sha256 == manifest_of(TWO).sha256
        for collection, docs in (("records", kept), ("packages", views)):  # an older copy is put back
            await a.store.delete(collection, {})
            for doc in docs:
                await a.store.insert(collection, {k: v for k, v in doc.items() if k not in {"_rev", "seq"}})
        nodes.all[0] = a = a.again()
        await a.start()
        a.time += 1000
        if edit == "withdraw":
            await a.packages.withdraw(ID, actor="me")
        else:
            await a.packages.change(ID, notes="new", actor="me")
        await nodes.tell(1 - first, first)
        end = await nodes.converge()
        assert end.sha256 == manifest_of(TWO).sha256
        assert len(await told(nodes[first])) + len(await told(nodes[1 - first])) >= 1

    play(script)


def _file(node: Services, data: bytes) -> Path:
    path = node.layout.partial("y")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def _all(node: Services, collection: str) -> Any:
    for doc in await node.store.find(collection, {}, limit=1000):
        yield doc
