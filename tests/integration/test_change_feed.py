"""A node's change feed over the real store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import ReplicaBody
from appliance.domain.record import RecordKind, replica_id
from appliance.peering.identity import Identity
from appliance.service.records import Records
from appliance.store.opening import open_store
from appliance.store.ports import Store

Work = Callable[[Records, Store], Awaitable[None]]

NOW = 1_800_000_000_000  #: UTC milliseconds
IDENTITIES = {name: Identity.generate() for name in "abc"}
IDS = {name: identity.node_id for name, identity in IDENTITIES.items()}
P, Q = package_id("p.pkg"), package_id("q.pkg")


def with_records(directory: Path, work: Work) -> None:
    async def run() -> None:
        store = await open_store("", directory)
        try:
            await work(Records(store, Identity.generate(), lambda: NOW), store)
        finally:
            await store.close()

    asyncio.run(run())


async def write(records: Records, store: Store, name: str) -> None:
    """A further revision of a node's record, by that node."""
    writer = Records(store, IDENTITIES[name], lambda: NOW)
    known = await writer.known(RecordKind.NODE, IDS[name])
    body = NodeBody(name=name, url="http://x", stage="prod", version="1")
    _, operation = writer.write(RecordKind.NODE, IDS[name], body, known)
    await store.batch([operation])


def test_pages_follow_each_other_and_hold_the_newest_only(tmp_path: Path) -> None:
    async def work(records: Records, store: Store) -> None:
        for name in ("a", "b", "c", "a"):
            await write(records, store, name)
        first = await records.changes(since=0, feed="", limit=2, wait_s=0)
        assert [record.id for record in first.records] == [IDS["b"], IDS["c"]]
        assert first.more
        rest = await records.changes(since=first.next, feed=first.feed, limit=2, wait_s=0)
        assert [(record.id, record.revision) for record in rest.records] == [(IDS["a"], NOW + 1)]
        assert not rest.more
        end = await records.changes(since=rest.next, feed=rest.feed, limit=2, wait_s=0)
        assert (end.records, end.next) == ([], rest.next)

    with_records(tmp_path, work)


def test_a_position_in_another_feed_means_nothing(tmp_path: Path) -> None:
    async def work(records: Records, store: Store) -> None:
        await write(records, store, "a")
        page = await records.changes(since=1, feed="another", limit=9, wait_s=0)
        assert len(page.records) == 1

    with_records(tmp_path, work)


def test_a_position_behind_the_end_starts_over_since_an_older_copy_was_restored(tmp_path: Path) -> None:
    async def work(records: Records, store: Store) -> None:
        await write(records, store, "a")
        page = await records.changes(since=50, feed=(await store.feed()).id, limit=9, wait_s=0)
        assert [record.id for record in page.records] == [IDS["a"]]
        assert page.next == 1

    with_records(tmp_path, work)


def test_a_long_poll_answers_when_something_changes(tmp_path: Path) -> None:
    async def work(records: Records, store: Store) -> None:
        feed = (await store.feed()).id
        waiting = asyncio.create_task(records.changes(since=0, feed=feed, limit=9, wait_s=20))
        await asyncio.sleep(0)
        await write(records, store, "a")
        assert len((await asyncio.wait_for(waiting, 5)).records) == 1
        assert (await records.changes(since=1, feed=feed, limit=9, wait_s=0.01)).records == []

    with_records(tmp_path, work)


def test_what_is_known_of_a_package_is_one_read(tmp_path: Path) -> None:
    async def work(records: Records, store: Store) -> None:
        nodes = []
        for number in range(600):
            identity = Identity.generate()
            writer, node = Records(store, identity, lambda: NOW), identity.node_id
            nodes.append(node)
            body = ReplicaBody(package=P, node=node, sha256="0" * 64, presence="held")
            id = replica_id(P, node)
            known = await writer.known(RecordKind.REPLICA, id)
            _, operation = writer.write(RecordKind.REPLICA, id, body, known, deleted=number == 7)
            await store.batch([operation])
        about = await records.about(P)
        assert about.package.record is None
        assert about.package.rev == 0
        assert sorted(about.replicas) == sorted(nodes)
        gone = about.replicas[nodes[7]]
        assert gone.record is not None
        assert gone.rev == (await records.known(RecordKind.REPLICA, replica_id(P, nodes[7]))).rev
        assert len(about.living()) == len(await records.replicas(P)) == 599
        assert (await records.about(Q)).living() == []

    with_records(tmp_path, work)
