"""The public name of a package when somebody else is faster: another process, a look, a withdrawal, an outage.

The two worlds of a test share store and disk, as processes of a node do.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.service.public_names import show
from appliance.store import blobs as blobs_module
from tests.builders import manifest_of

from .test_trash import NAME, ONE, THREE, TWO, Test, World, peer_of, run, sha

__all__ = ["run"]


def names(node: World) -> dict[str, bytes]:
    """What lies under each public name."""
    return {path.name: path.read_bytes() for path in node.layout.packages.iterdir()}


async def beside(node: World) -> World:
    """Another process of the same node."""
    other = World(node.store, node.layout.root.parent, node.clock)
    await other.catalogue.load()
    return other


def before_the_write(
    node: World, monkeypatch: pytest.MonkeyPatch, then: Callable[[], Awaitable[Any]]
) -> None:
    """Do something once, when the name was given and the store does not know of it yet."""
    batch = node.store.batch

    async def overtaken(operations: Any) -> Any:
        if any(getattr(each, "collection", "") == "packages" for each in operations):
            monkeypatch.setattr(node.store, "batch", batch)
            await then()
        return await batch(operations)

    monkeypatch.setattr(node.store, "batch", overtaken)


async def awaits(node: World, peer: World, data: bytes = TWO) -> None:
    """Let a peer replace the package, by bytes that are here already."""
    await peer.hear(node)
    await peer.put(data)
    node.lay(data)


def test_a_look_between_name_and_write_keeps_no_adopter_from_its_name(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.verifying.load()
        before_the_write(node, monkeypatch, node.verifying.look)
        await node.put(TWO)
        assert node.package().held_sha256 == sha(TWO)
        assert names(node) == {NAME: TWO}

    run(test)


@pytest.mark.parametrize("gone", ["the blob", "what the name shows"])
def test_a_blob_and_its_name_are_one_again(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Another package of the same bytes came, or let its bytes go, between the name and the write."""

    async def test(node: World) -> None:
        async def between() -> None:
            assert names(node) == {NAME: ONE}
            node.blobs.path(sha(ONE)).unlink()
            if gone == "what the name shows":
                node.lay(ONE)

        before_the_write(node, monkeypatch, between)
        await node.put(ONE)
        assert names(node) == {NAME: ONE}
        assert node.here() == {sha(ONE)}
        assert node.blobs.path(sha(ONE)).samefile(node.layout.packages / NAME)

    run(test)


@pytest.mark.parametrize("renamed", [False, True])
def test_what_was_withdrawn_or_renamed_before_the_write_has_no_name_any_more(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        publish, loop = node.blobs.publish, asyncio.get_running_loop()
        async with peer_of(node, tmp_path) as peer:
            await awaits(node, peer)
            other = await beside(node)

            async def overtake() -> None:
                await other.catalogue.load()
                if renamed:
                    await other.put(THREE, "a.pkg")
                else:
                    await other.packages.withdraw(node.package().id, actor="jo")

            def overtaken(sha256: str, filename: str) -> None:
                monkeypatch.setattr(node.blobs, "publish", publish)
                asyncio.run_coroutine_threadsafe(overtake(), loop).result(20)
                publish(sha256, filename)

            monkeypatch.setattr(node.blobs, "publish", overtaken)
            await node.hear(peer)
        assert names(node) == ({"a.pkg": THREE} if renamed else {})

    run(test)


def test_a_withdrawal_while_a_name_is_looked_at_is_not_undone(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        other, shows, loop = await beside(node), node.blobs.shows, asyncio.get_running_loop()

        def late(sha256: str, filename: str) -> bool:
            monkeypatch.setattr(node.blobs, "shows", shows)
            withdrawing = other.packages.withdraw(node.package().id, actor="jo")
            asyncio.run_coroutine_threadsafe(withdrawing, loop).result(20)
            return shows(sha256, filename)

        monkeypatch.setattr(node.blobs, "shows", late)
        await show(node.catalogue, node.blobs, node.package().id)
        assert names(node) == {}

    run(test)


def test_a_name_whose_write_an_outage_cut_off_goes_with_the_package(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise StoreUnavailable("The database does not answer.")

    async def test(node: World) -> None:
        async with peer_of(node, tmp_path) as peer:
            await peer.put(TWO)
            node.lay(TWO)
            before_the_write(node, monkeypatch, away)
            with pytest.raises(StoreUnavailable):
                await node.hear(peer)
            assert names(node) == {NAME: TWO}
            await peer.packages.withdraw(peer.package().id, actor="jo")
            await node.hear(peer)
        assert names(node) == {}

    run(test)


def test_an_outage_while_names_are_given_again_ends_the_look_at_once(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        for number in range(5):
            await node.put(bytes([number]) * 1000, f"P{number}.pkg")
        await node.verifying.load()
        for path in node.layout.packages.iterdir():
            path.unlink()
        asked = []

        async def away(id: str) -> None:
            asked.append(id)
            raise StoreUnavailable("The database does not answer.")

        monkeypatch.setattr(node.catalogue, "refresh", away)
        with pytest.raises(StoreUnavailable):
            await node.verifying.look()
        assert len(asked) == 1

    run(test)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Public files that are copies, as on another disk; which were made."""
    made: list[str] = []

    def copy(source: Path, target: Path) -> None:
        made.append(target.name)
        shutil.copyfile(source, target)

    monkeypatch.setattr(blobs_module, "link_or_copy", copy)
    monkeypatch.setattr(blobs_module, "links_work", lambda *_: False)
    return made


def test_public_files_that_are_copies_are_made_once(run: Callable[[Test], None], copies: list[str]) -> None:
    """An upload keeps its own link of the blob until it has been answered."""

    async def test(node: World) -> None:
        await node.put(ONE)
        path = node.layout.partial("upload")
        path.write_bytes(ONE)
        committed = node.blobs.commit(path, sha(ONE), keep=True)
        copies.clear()
        await node.verified.relink(sha(ONE))
        assert len(copies) == 1, "the bytes took the place of a file that may have been wrong"
        copies.clear()
        await node.packages.publish(
            manifest=manifest_of(ONE), filename=NAME, committed=committed, stage="prod", tags=("new",), notes="",
            metadata={}, actor="me", replace=True,
        )  # fmt: skip
        assert node.package().body.tags == ("new",)
        assert copies == []

    run(test)


@pytest.mark.usefixtures("copies")
def test_a_copy_that_was_given_for_nothing_is_made_anew(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the same size, by which alone a copy would be taken for right."""

    async def test(node: World) -> None:
        await node.put(ONE)
        async with peer_of(node, tmp_path) as peer:
            await awaits(node, peer)
            other = await beside(node)

            async def overtake() -> None:
                await other.put(ONE, notes="again")  # the same bytes, and a newer record

            before_the_write(node, monkeypatch, overtake)
            await node.hear(peer)
        await node.catalogue.load()
        held = ONE if node.package().held_sha256 == sha(ONE) else TWO
        assert names(node) == {NAME: held}

    run(test)


def test_a_name_that_is_taken_away_while_it_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Test], None]
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)

        def vanished(_blob: Path, target: Path) -> bool:
            target.unlink()
            raise FileNotFoundError

        with monkeypatch.context() as context:
            context.setattr(blobs_module.os.path, "samefile", vanished)
            node.blobs.publish(sha(ONE), NAME)
        assert names(node) == {NAME: ONE}

    run(test)
