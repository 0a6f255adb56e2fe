"""The node's keys and its database: they belong together, or the node does not start.

The database remembers whose it is (collection "node"), so that a lost, damaged or foreign key is
not a new node that nobody asked for, and so that two nodes do not write to one database. A database of an older version
adopts the key that its own records speak of.

A file beside the key says that the node has a database: one that is lost, or emptied, is not begun anew by itself.

A first start makes the key as `node.key.new`, claims the database, and then gives the key its name: a crash in between
leaves what the next start completes.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.domain.errors import (
    Conflict,
    DuplicateKey,
    InvalidSettings,
    KeysMismatch,
    StorageError,
    StoreUnavailable,
)
from appliance.domain.event import EventType
from appliance.domain.record import RecordKind
from appliance.peering.identity import Identity
from appliance.store.filesystem import sync_directory
from appliance.store.layout import Layout
from appliance.store.ports import Doc, Operation, Replace, Store

from .records import Records
from .secrets import SecretBox

log = logging.getLogger(__name__)

NODE = "node"
IDENTITY = "identity"
SECRETS = "secrets"
_TELLING = ("records", "packages", "accounts", "events")  #: a database without any of these is new
_SEALED = "gAAAA"  #: how every sealed secret begins (Fernet, version 0x80)
_SEALING = ("destinations", "mdm_servers")
_FOR_GOOD = (
    "If the key is lost for good, stop the node and run `ods init --new-identity`: it keeps the packages and is a new "
    "node to its peers."
)
_GIVE_BACK = (
    "restore it from a backup, or run `ods import` with the newest export, and start the node. If there is neither, "
    "`ods init --empty-database` begins with an empty one; files in blobs that it does not know are not served."
)
_MARK = "This node has a database: it does not start without it. Keep this file with the keys.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeys:
    """What the directory identity holds."""

    identity: Identity
    box: SecretBox


async def open_keys(store: Store, layout: Layout, *, create: bool, now: Callable[[], int]) -> NodeKeys:
    """Read the keys, and compare them with the database; a first start makes both.

    Args:
        store: The database.
        layout: Where the keys are.
        create: Whether a first start may happen here; a worker leaves it to the serving process.
        now: UTC milliseconds.

    Raises:
        KeysMismatch: Keys and database do not belong together, or one is lost; the message says what to restore.
        InvalidSettings: A key file holds no key.
        StoreUnavailable: The database does not answer, or the node has not been started yet.
    """
    path = _key_file(layout)
    await refuse_lost(store, layout)
    while True:
        doc = await store.get(NODE, IDENTITY)
        identity = Identity.load(path) or _unfinished(path, doc)
        if doc is None:
            identity = await _first(store, path, identity, create=create)
            try:
                doc = await store.insert(NODE, _identity_doc(identity, now()))
            except DuplicateKey:
                continue  # another process was faster: what it says is compared
            log.info(
                "the database belongs to this node from now on",
                extra={"action": "database_claimed", "node": identity.node_id},
            )
        _compare(path, identity, doc)
        assert identity is not None
        if not path.exists():
            _new(path).replace(path)
        await asyncio.to_thread(_mark, _marker(layout))
        return NodeKeys(identity=identity, box=await _open_box(store, layout))


async def key_faults(store: Store, layout: Layout) -> list[tuple[Path, str]]:
    """What would end a start on these keys and this database: each key file with a sentence. Nothing is written."""
    found = []
    path = _key_file(layout)
    try:
        doc = await store.get(NODE, IDENTITY)
        identity = Identity.load(path) or _unfinished(path, doc)
        if doc is None and not await _is_new(store):
            identity = await _first(store, path, identity, create=False)
        _compare(path, identity, doc)
    except InvalidSettings as exc:
        found.append((path, exc.message))
    box = _box_file(layout)
    try:
        await _check_box(store, box)
    except InvalidSettings as exc:
        found.append((box, exc.message))
    return found


def _compare(path: Path, identity: Identity | None, doc: Doc | None) -> None:
    """Refuse a key that is not the one of the database.

    Raises:
        KeysMismatch: It is lost, or another one.
    """
    if doc is None:
        return
    if identity is None:
        raise KeysMismatch(
            f"{path} is missing, and the database belongs to the node {doc['node_id'][:8]}. Restore the directory "
            f"identity from a backup. {_FOR_GOOD}"
        )
    if identity.node_id != doc["node_id"]:
        raise KeysMismatch(
            f"The database belongs to the node {doc['node_id'][:8]}, and {path} is the key of "
            f"{identity.node_id[:8]}. Restore identity/node.key from a backup; or, if this is another node's "
            f"database, correct database.url: each node has its own. {_FOR_GOOD}"
        )


def refuse_lost_file(layout: Layout, database: Path) -> None:
    """Refuse an SQLite file that is gone, or has no bytes, where the node had one: opened it would be a new database.

    Raises:
        KeysMismatch: It is so.
    """
    exists = database.exists()
    if exists and _key_file(layout).exists() and not database.stat().st_size:
        raise KeysMismatch(
            f"The database {database} has lost its content: the file is empty. Delete it, and {_GIVE_BACK}"
        )
    if not exists and _marker(layout).exists():
        raise KeysMismatch(
            f"The database {database} is missing, although this node had one. To give it back, {_GIVE_BACK}"
        )


async def refuse_lost(store: Store, layout: Layout) -> None:
    """Refuse an empty database where the node had one.

    Raises:
        KeysMismatch: It is so.
    """
    if (
        await asyncio.to_thread(_marker(layout).exists)
        and await store.get(NODE, IDENTITY) is None
        and await _is_new(store)
    ):
        raise KeysMismatch(
            "The database is empty, although this node had one. If it is the wrong one, correct database.url. If it "
            f"was lost, {_GIVE_BACK}"
        )


async def begin_empty(store: Store, layout: Layout) -> None:
    """Let an empty database be this node's from now on: the one before is lost, and a person said so.

    Raises:
        Conflict: It is not empty.
    """
    if not await _is_new(store):
        raise Conflict("The database is not empty; nothing was changed. The node can start with it.")
    await asyncio.to_thread(_marker(layout).unlink, missing_ok=True)


async def new_identity(store: Store, layout: Layout, now: Callable[[], int]) -> Identity:
    """Make this a new node that keeps its packages: the key is lost, and a person said so. The node is stopped.

    The old key, if there is one, is kept beside the new one. The registrations were with the old key, so they end, and
    the old node is removed from the network's lists.
    """
    path = _key_file(layout)
    doc = await store.get(NODE, IDENTITY)
    before = doc["node_id"] if doc else await _owner_by_events(store)
    if path.exists():
        path.replace(_aside(path))
    identity = Identity.generate()
    operations: list[Operation] = [Replace(NODE, {**(doc or {}), **_identity_doc(identity, now())})]
    records = Records(store, identity, now)
    if before:
        known = await records.known(RecordKind.NODE, before)
        if known.record is not None and not known.record.deleted:
            body = known.record.body
            operations.append(records.write(RecordKind.NODE, before, body, known, deleted=True)[1])
    identity.save(_new(path))
    await store.batch(operations)
    _new(path).replace(path)
    for collection in ("peers", "cursors", "invites"):
        while docs := await store.find(collection, limit=500):
            await store.delete(collection, {"_id": {"in": [each["_id"] for each in docs]}})
    return identity


async def new_secrets_key(store: Store, layout: Layout) -> None:
    """Make a new key for secrets: the old one is lost, and a person said so. What it sealed has to be entered again."""
    path = _box_file(layout)
    if path.exists():
        path.replace(_aside(path))
    await _remember(store, SecretBox(path))


async def _first(store: Store, path: Path, identity: Identity | None, *, create: bool) -> Identity:
    """The identity to which a database is to belong that does not say whose it is."""
    if await _is_new(store):
        if not create:
            raise StoreUnavailable("The node has not been started yet; the worker waits for `ods serve`.")
        if identity is None:
            identity = Identity.generate()
            identity.save(_new(path))
        return identity
    # It was made before databases said whose they are.
    owner = await _owner_by_events(store)
    if identity is None:
        whose = f" (the node {owner[:8]})" if owner else ""
        raise KeysMismatch(
            f"{path} is missing, and the database belongs to a node that was started before{whose}. Restore the "
            f"directory identity from a backup. {_FOR_GOOD}"
        )
    if not owner and await store.count("records"):
        own = await store.get("records", f"{RecordKind.NODE}:{identity.node_id}")
        peer = await store.get("peers", identity.node_id)
        owner = identity.node_id if own is not None and peer is None else "another"
    if owner and owner != identity.node_id:
        raise KeysMismatch(
            f"The database belongs to the node {owner[:8]}, and {path} is the key of {identity.node_id[:8]}. Restore "
            f"identity/node.key from a backup, or correct database.url. {_FOR_GOOD}"
        )
    return identity


async def _is_new(store: Store) -> bool:
    for name in _TELLING:
        if await store.count(name):
            return False
    return True


async def _owner_by_events(store: Store) -> str:
    """The node that was started last with this database, or ""."""
    where = {"type": str(EventType.NODE_STARTED)}
    found = await store.find("events", where, order="seq", descending=True, limit=1)
    return str(found[0]["subject"]) if found else ""


async def _open_box(store: Store, layout: Layout) -> SecretBox:
    """The key for secrets; a missing one is made if there is no secret that it would have to open.

    Raises:
        KeysMismatch: None of the secrets in the database can be opened with it.
    """
    path = _box_file(layout)
    box = await _check_box(store, path)
    known = await store.get(NODE, SECRETS)
    if box is not None and known is not None and known["fingerprint"] == box.fingerprint:
        return box
    box = box or SecretBox(path)
    await _remember(store, box)
    return box


async def _check_box(store: Store, path: Path) -> SecretBox | None:
    """The key for secrets, None if it is missing and no secret needs it. Nothing is written.

    Raises:
        KeysMismatch: None of the secrets in the database can be opened with it.
        InvalidSettings: The file holds no key.
    """
    box = SecretBox(path) if await asyncio.to_thread(path.exists) else None
    known = await store.get(NODE, SECRETS)
    if box is not None and known is not None and known["fingerprint"] == box.fingerprint:
        return box
    missing = box is None
    sealed = await _sealed_secrets(store)
    if sealed and (box is None or not any(_opens(box, each) for each in sealed)):
        raise KeysMismatch(
            f"{path} is {'missing' if missing else 'another key'}, and the database holds secrets of MDM servers or "
            "destinations that the right one encrypted. Restore identity/secrets.key from a backup. If it is lost for "
            "good, stop the node, run `ods init --new-secrets-key`, and enter those secrets again."
        )
    return box


async def _remember(store: Store, box: SecretBox) -> None:
    await store.replace(NODE, {"_id": SECRETS, "fingerprint": box.fingerprint})


async def _sealed_secrets(store: Store) -> list[str]:
    return [
        text
        for collection in _SEALING
        for doc in await store.find(collection, limit=10_000)
        for text in _tokens(doc)
    ]


def _tokens(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.startswith(_SEALED):
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tokens(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tokens(inner)


def _opens(box: SecretBox, sealed: str) -> bool:
    try:
        box.open(sealed)
    except InvalidSettings:
        return False
    return True


def _unfinished(path: Path, doc: Doc | None) -> Identity | None:
    """The key of a first start that was cut off, unless the database belongs to somebody else meanwhile."""
    try:
        found = Identity.load(_new(path))
    except InvalidSettings:
        return None  # it was cut off in the middle of this very file
    return found if found is not None and (doc is None or doc["node_id"] == found.node_id) else None


def _identity_doc(identity: Identity, now: int) -> Doc:
    return {"_id": IDENTITY, "node_id": identity.node_id, "at": now}


def _key_file(layout: Layout) -> Path:
    return layout.identity / "node.key"


def _marker(layout: Layout) -> Path:
    return layout.identity / "database"


def _mark(path: Path) -> None:
    """Note that the node has a database. A directory that cannot be written now is noted in at a later start."""
    if path.exists():
        return
    try:
        path.write_text(_MARK)
        sync_directory(path.parent)
    except (OSError, StorageError) as exc:
        log.warning(
            "it could not be noted that this node has a database",
            extra={"action": "database_unmarked", "error": str(exc)},
        )


def _box_file(layout: Layout) -> Path:
    return layout.identity / "secrets.key"


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(3)}.old")
