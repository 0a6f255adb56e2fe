"""Keys and database belong together, on both stores."""

import asyncio
import contextlib
import errno
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import Conflict, InvalidSettings, KeysMismatch, StoreUnavailable
from appliance.domain.event import EventType
from appliance.domain.record import RecordKind
from appliance.peering.identity import Identity
from appliance.service.node_keys import (
    NodeKeys,
    begin_empty,
    new_identity,
    new_secrets_key,
    open_keys,
    refuse_lost_file,
)
from appliance.service.records import Records
from appliance.service.secrets import SecretBox
from appliance.store.layout import Layout
from appliance.store.opening import FILE_NAME
from appliance.store.ports import Store

from .conftest import Place

Work = Callable[[Store], Awaitable[Any]]


def now() -> int:
    return 1_800_000_000_000


class Node:
    """A data directory with its database."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place = place
        self.layout = Layout(root)
        root.mkdir(parents=True, exist_ok=True)

    def run(self, work: Work) -> Any:
        return self.place.run(work)

    def open(self, *, create: bool = True) -> NodeKeys:
        keys: NodeKeys = self.run(lambda store: open_keys(store, self.layout, create=create, now=now))
        return keys

    def refused(self, match: str) -> None:
        before = self.files()
        with pytest.raises(KeysMismatch, match=match) as caught:
            self.open()
        assert "\n" not in caught.value.message
        assert self.files() == before, "nothing is made, and nothing is lost"

    def files(self) -> dict[str, bytes]:
        folder = self.layout.identity
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}

    @property
    def key(self) -> Path:
        return self.layout.identity / "node.key"

    @property
    def marker(self) -> Path:
        return self.layout.identity / "database"

    def older(self) -> None:
        """Let the database be one of a version that did not remember whose it is."""

        async def forget(store: Store) -> None:
            await store.delete("node", {"_id": "identity"})

        self.marker.unlink(missing_ok=True)
        self.run(forget)


@pytest.fixture
def node(place: Place, tmp_path: Path) -> Node:
    return Node(place, tmp_path / "a")


async def live(store: Store, identity: Identity) -> None:
    """What a node writes at its first start."""
    records = Records(store, identity, now)
    known = await records.known(RecordKind.NODE, identity.node_id)
    _, operation = records.write(
        RecordKind.NODE,
        identity.node_id,
        {"name": "a", "url": "http://a", "stage": "prod", "version": "1"},
        known,
    )
    await store.batch([operation])
    await store.insert(
        "events",
        {"_id": f"e{identity.node_id}", "type": str(EventType.NODE_STARTED), "subject": identity.node_id},
    )


def test_a_first_start_makes_both_and_every_other_finds_them(node: Node) -> None:
    first = node.open()
    assert sorted(node.files()) == ["database", "node.key", "secrets.key"]
    assert node.open().identity.node_id == node.open(create=False).identity.node_id == first.identity.node_id


def test_a_worker_leaves_the_first_start_to_the_node(node: Node) -> None:
    with pytest.raises(StoreUnavailable, match="ods serve"):
        node.open(create=False)
    assert node.files() == {}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("create", [False, True])
def test_a_lost_key_is_not_a_new_node(node: Node, older: bool, create: bool) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    if older:
        node.older()
    shutil.rmtree(node.layout.identity)
    with pytest.raises(KeysMismatch, match=r"Restore the directory identity.*--new-identity"):
        node.open(create=create)
    assert node.files() == {}


@pytest.mark.parametrize("older", [False, True])
def test_another_nodes_key_is_refused(node: Node, older: bool) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    if older:
        node.older()
    node.key.unlink()
    Identity.generate().save(node.key)
    node.refused("database.url")


def test_a_peers_key_is_refused_by_a_database_of_before(node: Node) -> None:
    keys = node.open()
    peer = Identity.generate()

    async def join(store: Store) -> None:
        await live(store, keys.identity)
        await live(store, peer)
        await store.delete("events", {"type": str(EventType.NODE_STARTED)})
        await store.insert("peers", {"_id": peer.node_id, "state": "active"})

    node.run(join)
    node.older()
    own = node.key.read_bytes()
    node.key.unlink()
    peer.save(node.key)
    node.refused("Restore")
    node.key.write_bytes(own)
    assert node.open().identity.node_id == keys.identity.node_id


def test_a_database_of_before_is_adopted_once(node: Node) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    node.older()
    assert node.open().identity.node_id == keys.identity.node_id
    node.key.unlink()
    node.refused("is missing")


@pytest.mark.parametrize("bit", range(0, 119 * 8, 37))
def test_a_changed_bit_is_refused(tmp_path: Path, bit: int) -> None:
    node = Node(Place("sqlite", "", tmp_path / "db"), tmp_path / "a")
    kept = node.open().identity
    data = bytearray(node.key.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    node.key.write_bytes(data)
    told = ""
    with contextlib.suppress(InvalidSettings):
        if Identity.load(node.key).public_key == kept.public_key:  # type: ignore[union-attr]
            told = "Restore"  # a bit outside of the key, such as its last line break
    try:
        node.open()
    except InvalidSettings as exc:
        told = exc.message
    assert "Restore" in told
    assert "\n" not in told


def test_two_nodes_do_not_share_a_database(node: Node, tmp_path: Path) -> None:
    node.open()
    second = Node(node.place, tmp_path / "b")
    second.refused("belongs to the node")
    Identity.generate().save(second.key)
    second.refused("each node has its own")


def test_two_first_starts_at_once_have_one_winner(node: Node, tmp_path: Path) -> None:
    second = Node(node.place, tmp_path / "b")

    async def race(store: Store) -> list[Any]:
        return await asyncio.gather(
            *(open_keys(store, each.layout, create=True, now=now) for each in (node, second)),
            return_exceptions=True,
        )

    ends = node.run(race)
    assert sorted(type(end).__name__ for end in ends) == ["KeysMismatch", "NodeKeys"]


@pytest.mark.parametrize("claimed", [False, True])
def test_a_first_start_that_was_cut_off_is_completed(node: Node, claimed: bool) -> None:
    keys = node.open()
    node.key.rename(node.key.with_name("node.key.new"))
    if not claimed:
        node.older()
    assert node.open().identity.node_id == keys.identity.node_id
    assert "node.key.new" not in node.files()


async def empty(store: Store) -> None:
    for name in ("records", "packages", "accounts", "events", "node"):
        await store.delete(name, {})


@pytest.mark.parametrize("create", [False, True])
def test_a_database_that_was_lost_is_not_begun_anew(node: Node, create: bool) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    node.run(empty)
    before = node.files()
    for _ in range(2):
        with pytest.raises(KeysMismatch, match=r"empty.*database.url.*ods import.*--empty-database"):
            node.open(create=create)
    assert node.files() == before


def test_an_empty_database_is_begun_on_purpose(node: Node) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    with pytest.raises(Conflict, match="not empty"):
        node.run(lambda store: begin_empty(store, node.layout))
    node.run(empty)
    node.run(lambda store: begin_empty(store, node.layout))
    assert node.open().identity.node_id == keys.identity.node_id
    node.run(empty)
    node.refused("empty")


def test_a_node_of_before_notes_at_its_next_start_that_it_has_a_database(node: Node) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    node.marker.unlink()
    node.open(create=False)
    node.run(empty)
    node.refused("empty")


def test_a_key_alone_starts_with_a_new_database(node: Node) -> None:
    identity = Identity.generate()
    identity.save(node.key)
    assert node.open().identity.node_id == identity.node_id
    assert node.marker.exists()


def test_a_directory_that_takes_no_note_stops_no_start(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.open()
    node.marker.unlink()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        node.open()
    assert "could not be noted" in caplog.text
    node.open()
    assert node.marker.exists()


def test_a_file_that_lost_its_content_is_no_new_database(tmp_path: Path) -> None:
    node = Node(Place("sqlite", "", tmp_path), tmp_path)
    file = tmp_path / FILE_NAME
    file.touch()
    refuse_lost_file(node.layout, file)  # a first start was cut off
    node.open()
    refuse_lost_file(node.layout, file)
    file.write_bytes(b"")
    with pytest.raises(KeysMismatch, match=r"has lost its content.*ods import"):
        refuse_lost_file(node.layout, file)
    file.unlink()
    with pytest.raises(KeysMismatch, match=r"is missing.*ods import"):
        refuse_lost_file(node.layout, file)
    node.marker.unlink()
    refuse_lost_file(node.layout, file)


@pytest.mark.parametrize("lost", ["gone", "broken", "another"])
def test_a_new_identity_is_made_on_purpose_and_keeps_the_packages(node: Node, lost: str) -> None:
    old = node.open().identity

    async def before(store: Store) -> None:
        await live(store, old)
        await store.insert("packages", {"_id": "p", "filename": "p.pkg"})
        await store.insert("peers", {"_id": "peer", "state": "active"})

    node.run(before)
    if lost == "gone":
        node.key.unlink()
    else:
        node.key.write_bytes(b"nonsense")
        if lost == "another":
            Identity.generate().save(node.key)
    with pytest.raises(InvalidSettings):
        node.open()
    made = node.run(lambda store: new_identity(store, node.layout, now))
    assert node.open().identity.node_id == made.node_id != old.node_id

    async def after(store: Store) -> None:
        assert await store.count("packages") == 1
        assert await store.count("peers") == 0
        gone = await store.get("records", f"node:{old.node_id}")
        assert gone is not None
        assert gone["deleted"]

    node.run(after)


@pytest.mark.parametrize("lost", ["gone", "another", "broken"])
@pytest.mark.parametrize("older", [False, True])
def test_a_lost_key_for_secrets_is_refused_while_it_would_open_any(
    node: Node, lost: str, older: bool
) -> None:
    keys = node.open()
    node.run(lambda store: live(store, keys.identity))
    path = node.layout.identity / "secrets.key"
    if older:
        node.older()
    path.unlink()
    keys = node.open()  # there is no secret yet: a new one does
    sealed = keys.box.seal(b"secret")
    node.run(lambda store: store.insert("mdm_servers", {"_id": "m", "sealed": {"password": sealed}}))
    if older:
        node.older()
    assert node.open().box.open(sealed) == b"secret"
    if older:
        node.older()
    path.unlink()
    if lost == "another":
        SecretBox(path)
    elif lost == "broken":
        path.write_bytes(b"nonsense")
    with pytest.raises(InvalidSettings, match=r"Restore.*--new-secrets-key"):
        node.open()
    node.run(lambda store: new_secrets_key(store, node.layout))
    node.open()
