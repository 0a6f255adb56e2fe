"""Connecting to MongoDB, and making its collections and indexes match the schema."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import (
    CollectionInvalid,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from appliance.domain.errors import InvalidSettings, StoreUnavailable
from appliance.store.documents import CODEC
from appliance.store.feed import Feed
from appliance.store.schema import COLLECTIONS, VERSION, Collection

from .documents import SEQUENCES, Database
from .errors import REFUSALS, translate

META = "ods_meta"
META_ID = "ods"
SELECT_S = 3.0  #: how long an operation looks for a server
ANSWER_S = 10.0  #: how long an operation waits for its answer
DEFAULT_DATABASE = "ods"

Client = AsyncIOMotorClient[dict[str, Any]]

_WIRE_VERSION = 13  # MongoDB 5.0
_LEAST = {"text": "", "int": -(2**63), "bool": False}
_HOW = (
    "ODS needs a replica set for its transactions; one of a single member will do: start mongod with "
    "--replSet ods and run once: mongosh --eval 'rs.initiate()'"
)


def make_client(url: str) -> Client:
    """Return a client of the running event loop; it connects when it is first used.

    Raises:
        InvalidSettings: The URL is not valid.
        StoreUnavailable: The name service does not answer.
    """
    try:
        return AsyncIOMotorClient(
            url,
            io_loop=asyncio.get_running_loop(),
            appname="ods",
            w="majority",
            journal=True,
            wTimeoutMS=int(ANSWER_S * 1000),
            retryWrites=True,
            retryReads=True,
            serverSelectionTimeoutMS=int(SELECT_S * 1000),
            connectTimeoutMS=int(SELECT_S * 1000),
            socketTimeoutMS=int(ANSWER_S * 1000),
        )
    except (InvalidURI, ConfigurationError, ValueError) as exc:
        if type(exc.__context__).__module__.startswith("dns."):  # mongodb+srv:// asks for the servers' names
            raise StoreUnavailable(f"The servers of the database URL are not found: {exc}") from exc
        raise InvalidSettings(f"The database URL is not valid: {exc}") from exc


async def prepare_database(client: Client, refuse_newer: Callable[[int], None]) -> Database:
    """Check the server, make what is missing, and return the database.

    Raises:
        InvalidSettings: The server cannot be used; the message says what to do.
        StoreUnavailable: It does not answer.
    """
    try:
        _check_server(await client.admin.command("hello"))
        database: Database = client.get_default_database(DEFAULT_DATABASE).with_options(
            codec_options=CODEC, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority")
        )
        meta = await database[META].find_one({"_id": META_ID})
        if meta is not None:
            refuse_newer(meta["version"])
        await _make(database)
        await database[META].update_one(
            {"_id": META_ID}, {"$setOnInsert": {"version": VERSION, "feed": Feed().id}}, upsert=True
        )
    except ServerSelectionTimeoutError as exc:
        if any(server.server_type_name == "RSGhost" for server in _servers(client).values()):
            raise InvalidSettings(f"The replica set of MongoDB has not been initiated. {_HOW}") from exc
        raise translate(exc) from exc
    except OperationFailure as exc:
        if exc.code in REFUSALS:
            raise InvalidSettings(
                "MongoDB refuses the user of the database URL: correct name and password in database.url, and give the "
                "user the role readWrite of the database."
            ) from exc
        raise translate(exc) from exc
    except ConfigurationError as exc:
        raise InvalidSettings(f"MongoDB cannot be used: {exc}") from exc
    except PyMongoError as exc:
        raise translate(exc) from exc
    return database


def _check_server(hello: Mapping[str, Any]) -> None:
    if hello.get("maxWireVersion", 0) < _WIRE_VERSION:
        raise InvalidSettings("This MongoDB is too old; ODS needs version 5.0 or later.")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise InvalidSettings(f"This MongoDB runs without a replica set. {_HOW}")


def _servers(client: Client) -> Mapping[Any, Any]:
    servers: Mapping[Any, Any] = client.delegate.topology_description.server_descriptions()
    return servers


async def _make(database: Database) -> None:
    existing = set(await database.list_collection_names())
    for name in (*COLLECTIONS, SEQUENCES, META):
        # A transaction does not wait for a collection that another one is making: make all of them now.
        if name not in existing:
            try:
                await database.create_collection(name)
            except CollectionInvalid:
                continue  # another process was faster
    for collection in COLLECTIONS.values():
        await _make_indexes(database, collection)
        if collection.sequence:
            await _make_counter(database, collection)


async def _make_counter(database: Database, collection: Collection) -> None:
    if await database[SEQUENCES].find_one({"_id": collection.name}) is not None:
        return
    # Documents without a counter were brought by mongorestore.
    highest = await database[collection.name].find_one(sort=[(collection.sequence, DESCENDING)])
    last = highest[collection.sequence] if highest else 0
    await database[SEQUENCES].update_one(
        {"_id": collection.name}, {"$setOnInsert": {"last": last, "removals": 0}}, upsert=True
    )


def index_of(field: str) -> str:
    """The name of the index that serves a declared field."""
    return f"{field}__id"


async def _make_indexes(database: Database, collection: Collection) -> None:
    wanted: dict[str, dict[str, Any]] = {}
    for field in collection.fields:
        wanted[index_of(field)] = {"keys": [(field, ASCENDING), ("_id", ASCENDING)]}
    for field in collection.unique:
        # Partial, so that None does not collide. Queries use the index above, whose use needs no such condition.
        least = _LEAST[collection.fields[field]]
        wanted[f"{field}__unique"] = {
            "keys": [(field, ASCENDING)],
            "unique": True,
            "partialFilterExpression": {field: {"$gte": least}},
        }
    for fields in collection.indexes:
        keys = [(name.lstrip("-"), DESCENDING if name.startswith("-") else ASCENDING) for name in fields]
        wanted["_".join(fields)] = {"keys": keys}
    target = database[collection.name]
    present = set(await target.index_information()) - {"_id_"}
    for name in sorted(present - wanted.keys()):
        await target.drop_index(name)
    for name in sorted(wanted.keys() - present):
        await target.create_index(name=name, **wanted[name])
