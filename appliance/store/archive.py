"""Moving a whole store through one file: the backup, and the way from SQLite to MongoDB and back.

    <file>.tar
      ods/<collection>.bson      all documents one after the other, as mongodump writes them
      meta.json                  format, schema version, feed ids, last sequence numbers, counts and SHA-256s
      meta.json.sha256           guards meta.json

After unpacking, `mongorestore` reads the directory `ods`. The archive holds password hashes and encrypted secrets:
it is written readable by its owner only. It shows the store at one moment, whatever is written meanwhile.

A store that was filled from an archive has a change feed of another id than the exported one, which may have gone on:
a reader that read further than the archive goes begins again.
"""

import asyncio
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bson.errors import InvalidBSON

from appliance.domain.errors import Conflict, IntegrityFailure, InvalidInput, StorageError

from .documents import MAX_BYTES, decode, encode
from .feed import Feed
from .migrations import UNFINISHED, migrate, refuse_newer
from .ports import Doc, Snapshot, Store
from .schema import COLLECTIONS, RECORDS

FORMAT = 1
_META = "meta.json"
_META_SUM = "meta.json.sha256"
_BLOCK_BYTES = 1024 * 1024
_BLOCK_DOCUMENTS = 500
_MAX_DOCUMENT_BYTES = MAX_BYTES + 1024  # a stored document has grown by its revision and number
_MAX_META_BYTES = 1024 * 1024


@dataclass(slots=True, kw_only=True)
class _Meta:
    """What meta.json holds."""

    schema_version: int
    feed: Feed
    sequences: dict[str, int] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)  #: count and sha256 of each


async def export_archive(store: Store, path: Path) -> None:
    """Write everything that the store holds to a file, which is replaced if it exists.

    Raises:
        StorageError: The file cannot be written.
        StoreUnavailable: The database does not answer.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with await asyncio.to_thread(_create, temporary) as file:
            meta = _Meta(schema_version=await store.schema_version(), feed=await store.feed())
            async with store.snapshot() as snapshot:
                for name, collection in COLLECTIONS.items():
                    meta.collections[name] = await _export_collection(snapshot, name, file)
                    if collection.sequence:
                        meta.sequences[name] = await snapshot.last_sequence(name)
            await asyncio.to_thread(_finish, file, meta)
        await asyncio.to_thread(_publish, temporary, path)
    except OSError as exc:
        raise StorageError(f"The archive {path} cannot be written: {exc.strerror}.") from exc
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


async def import_archive(store: Store, path: Path) -> None:
    """Fill an empty store from an archive. Everything is checked before the first document is written.

    Raises:
        Conflict: The store is not empty.
        IntegrityFailure: The archive is damaged or incomplete.
        InvalidInput: There is no such file, or it is no archive of ours.
        InvalidSettings: A newer version of the program has written it.
    """
    for name in COLLECTIONS:
        if await store.count(name) or await store.last_sequence(name):
            raise Conflict(f"The store is not empty: it has {name}. Import into a new one.")
    try:
        with await asyncio.to_thread(tarfile.open, path, "r:") as archive:
            meta = await asyncio.to_thread(_verify, archive)
            await store.set_schema_version(UNFINISHED)  # a node must not start on a part
            for name in meta.collections:
                blocks = _blocks(_open(archive, f"ods/{name}.bson"))
                while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                    await store.load(name, block)
    except tarfile.TarError as exc:
        raise IntegrityFailure(f"{path} is no archive, or it is damaged.") from exc
    except OSError as exc:
        raise InvalidInput(f"The archive {path} cannot be read: {exc.strerror or exc}.") from exc
    await store.restore_meta(meta.feed.renewed(meta.sequences.get(RECORDS.name, 0)), meta.sequences)
    await store.set_schema_version(meta.schema_version)
    await migrate(store)


async def _export_collection(snapshot: Snapshot, name: str, file: IO[bytes]) -> dict[str, Any]:
    member = _Member(file, f"ods/{name}.bson")
    count = 0
    buffer = bytearray()
    async for doc in snapshot.export(name):
        buffer += encode(doc, limit=_MAX_DOCUMENT_BYTES)
        count += 1
        if len(buffer) >= _BLOCK_BYTES:
            await asyncio.to_thread(member.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(member.write, bytes(buffer))
    return {"count": count, "sha256": await asyncio.to_thread(member.close)}


class _Member:
    """A file in a tar that is written before its size is known: the header is filled in afterwards."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._info = tarfile.TarInfo(name)
        self._info.mode = 0o600
        self._start = file.tell()
        self._hash = hashlib.sha256()
        file.write(bytes(tarfile.BLOCKSIZE))

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._hash.update(data)
        self._info.size += len(data)

    def close(self) -> str:
        """Fill in the header; return the SHA-256 of the content in hex."""
        self._file.write(bytes(-self._info.size % tarfile.BLOCKSIZE))
        end = self._file.tell()
        # GNU headers stay one block whatever the size.
        header = self._info.tobuf(tarfile.GNU_FORMAT)
        self._file.seek(self._start)
        self._file.write(header)
        self._file.seek(end)
        return self._hash.hexdigest()


def _create(path: Path) -> IO[bytes]:
    with suppress(FileNotFoundError):
        path.unlink()
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb"
    )


def _finish(file: IO[bytes], meta: _Meta) -> None:
    text = {
        "format": FORMAT,
        "schema_version": meta.schema_version,
        "feed_id": meta.feed.id,
        "feeds": dict(meta.feed.earlier),
        "sequences": meta.sequences,
        "collections": meta.collections,
    }
    member = _Member(file, _META)
    member.write(json.dumps(text, indent=2).encode() + b"\n")
    digest = member.close()
    member = _Member(file, _META_SUM)
    member.write(f"{digest}  {_META}\n".encode())
    member.close()
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _verify(archive: tarfile.TarFile) -> _Meta:
    """Read the whole archive once and compare it with its meta.json."""
    meta = _read_meta(archive)
    for name, expected in meta.collections.items():
        if name not in COLLECTIONS:
            raise IntegrityFailure(f'The archive holds the unknown collection "{name}".')
        digest = hashlib.sha256()
        stream = _open(archive, f"ods/{name}.bson")
        while data := stream.read(_BLOCK_BYTES):
            digest.update(data)
        if digest.hexdigest() != expected["sha256"]:
            raise IntegrityFailure(f"The archive is damaged: {name} does not match its SHA-256.")
        count = sum(len(block) for block in _blocks(_open(archive, f"ods/{name}.bson")))
        if count != expected["count"]:
            raise IntegrityFailure(f"The archive is damaged: {name} has {count} documents.")
    return meta


def _read_meta(archive: tarfile.TarFile) -> _Meta:
    text = _open(archive, _META).read(_MAX_META_BYTES)
    told = _open(archive, _META_SUM).read(64).decode("ascii", "replace")
    if hashlib.sha256(text).hexdigest() != told:
        raise IntegrityFailure("The archive is damaged: meta.json does not match its SHA-256.")
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise InvalidInput(
                f"The archive has format {found['format']}; this program reads format {FORMAT}."
            )
        refuse_newer(found["schema_version"])
        return _Meta(
            schema_version=found["schema_version"],
            feed=Feed(id=found["feed_id"], earlier=found.get("feeds", {})),
            sequences=found["sequences"],
            collections=found["collections"],
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise IntegrityFailure("The archive's meta.json is not what it should be.") from exc


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        stream = archive.extractfile(name)
    except KeyError as exc:
        raise IntegrityFailure(f"The archive is incomplete: {name} is missing.") from exc
    if stream is None:
        raise IntegrityFailure(f"The archive is damaged: {name} is not a file.")
    return stream


def _blocks(stream: IO[bytes]) -> Iterator[list[Doc]]:
    """The documents of a BSON stream, some at a time."""
    block: list[Doc] = []
    size = 0
    while head := stream.read(4):
        length = int.from_bytes(head, "little")
        body = head + stream.read(length - 4) if 5 <= length <= _MAX_DOCUMENT_BYTES else head
        if len(head) < 4 or len(body) != length:
            raise IntegrityFailure("The archive is damaged: a document is cut off.")
        try:
            block.append(decode(body))
        except InvalidBSON as exc:
            raise IntegrityFailure("The archive is damaged: a document cannot be read.") from exc
        size += length
        if size >= _BLOCK_BYTES or len(block) >= _BLOCK_DOCUMENTS:
            yield block
            block, size = [], 0
    if block:
        yield block
