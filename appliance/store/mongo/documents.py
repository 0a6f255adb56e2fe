"""Single documents: adding, replacing and removing them, in a transaction or without."""

from typing import Any

from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from appliance.domain.errors import DuplicateKey, StaleRevision
from appliance.store.documents import declared_values, decode, encode
from appliance.store.ports import Doc
from appliance.store.schema import Collection

from .errors import duplicate_field

SEQUENCES = "ods_sequences"

Database = AsyncIOMotorDatabase[dict[str, Any]]
Session = AsyncIOMotorClientSession | None


def prepare(collection: Collection, doc: Doc) -> Doc:
    """Return what will be stored, without `_rev` and sequence number, after a BSON round trip.

    Raises:
        ValueError: It cannot be stored.
    """
    content = {key: value for key, value in doc.items() if key not in {"_rev", collection.sequence}}
    declared_values(collection, content)
    return decode(encode(content))


async def insert(database: Database, collection: Collection, content: Doc, session: Session) -> Doc:
    """Add a prepared document."""
    doc = {**content, "_rev": 1}
    if collection.sequence:
        doc[collection.sequence] = await _next(database, collection, session)
    try:
        await database[collection.name].insert_one(doc, session=session)
    except DuplicateKeyError as exc:
        raise duplicate(exc, collection, doc) from exc
    return doc


async def replace(
    database: Database, collection: Collection, content: Doc, expect: int | None, session: Session
) -> Doc:
    """Write a prepared document as the `Replace` operation does.

    A collection with sequence numbers needs a session in a transaction.
    """
    id_ = content["_id"]
    if expect == 0:
        try:
            return await insert(database, collection, content, session)
        except DuplicateKey as exc:
            if exc.details["field"] == "_id":
                raise StaleRevision(collection=collection.name, id=id_) from exc
            raise
    doc = dict(content)
    if collection.sequence:
        doc[collection.sequence] = await _next(database, collection, session)
    if expect is None:
        return await _put(database, collection, doc, session)
    doc["_rev"] = expect + 1
    try:
        outcome = await database[collection.name].replace_one(
            {"_id": id_, "_rev": expect}, doc, session=session
        )
    except DuplicateKeyError as exc:
        raise duplicate(exc, collection, doc) from exc
    if not outcome.matched_count:
        raise StaleRevision(collection=collection.name, id=id_)
    return doc


async def remove(database: Database, collection: Collection, query: dict[str, Any], session: Session) -> int:
    """Delete what matches; return how many."""
    outcome = await database[collection.name].delete_many(query, session=session)
    if outcome.deleted_count and collection.sequence:
        # Lets other processes notice it: they watch the numbers given, and a removal gives none.
        await database[SEQUENCES].update_one(
            {"_id": collection.name}, {"$inc": {"removals": 1}}, session=session
        )
    return outcome.deleted_count


def duplicate(error: DuplicateKeyError, collection: Collection, doc: Doc) -> DuplicateKey:
    """Our error for a key that exists."""
    name = duplicate_field(error)
    return DuplicateKey(
        f"A document with this {name} exists in {collection.name}.",
        collection=collection.name,
        field=name,
        id=doc["_id"],
    )


async def _put(database: Database, collection: Collection, doc: Doc, session: Session) -> Doc:
    # One round trip: the server counts the revision itself. $literal keeps it from reading "$…" as an expression.
    revision = {"$add": [{"$ifNull": ["$_rev", 0]}, 1]}
    try:
        stored = await database[collection.name].find_one_and_update(
            {"_id": doc["_id"]},
            [{"$replaceWith": {"$mergeObjects": [{"$literal": doc}, {"_rev": revision}]}}],
            projection={"_rev": True},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
    except DuplicateKeyError as exc:
        raise duplicate(exc, collection, doc) from exc
    doc["_rev"] = stored["_rev"]
    return doc


async def _next(database: Database, collection: Collection, session: Session) -> int:
    counter = await database[SEQUENCES].find_one_and_update(
        {"_id": collection.name},
        {"$inc": {"last": 1}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    return int(counter["last"])
