"""Copies of a stopped node's data, and looks into its database: what an administrator or a fault does to it."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from appliance.store.opening import FILE_NAME

from .node import NodeProcess

Docs = dict[str, Any]


class SavedNode:
    """A copy of a node's data directory, and of its database if that is in MongoDB; the node must be stopped."""

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        self._directory = directory
        shutil.copytree(node.data, directory)
        self._dump: dict[str, list[Docs]] = {}
        if node.settings["DATABASE_URL"]:
            with _client(node) as client:
                database = _database(client, node)
                self._dump = {name: list(database[name].find()) for name in database.list_collection_names()}

    def put_back(self, node: NodeProcess) -> None:
        """Make this, or another stopped node, what the copy is."""
        if node.data.exists():
            shutil.rmtree(node.data)
        shutil.copytree(self._directory, node.data)
        if node.settings["DATABASE_URL"]:
            with _client(node) as client:
                database = _database(client, node)
                for name in {*self._dump, *database.list_collection_names()}:
                    database[name].delete_many({})
                    if self._dump.get(name):
                        database[name].insert_many(self._dump[name])


def empty_database(node: NodeProcess) -> None:
    """Delete the database of a stopped node."""
    if node.settings["DATABASE_URL"]:
        with _client(node) as client:
            client.drop_database(_database(client, node).name)
    for file in node.data.glob(f"{FILE_NAME}*"):
        file.unlink()


def delete_docs(node: NodeProcess, collection: str, field: str, value: str) -> int:
    """Delete documents behind a node's back, whether it runs or not; return how many."""
    if node.settings["DATABASE_URL"]:
        with _client(node) as client:
            return _database(client, node)[collection].delete_many({field: value}).deleted_count
    connection = sqlite3.connect(node.data / FILE_NAME, timeout=20, isolation_level=None)
    try:
        sql = f'DELETE FROM "{collection}" WHERE "{field}" = ?'
        return connection.execute(sql, (value,)).rowcount
    finally:
        connection.close()


def count_docs(node: NodeProcess, collection: str, field: str, value: str) -> int:
    """How many documents of a node's database have a value."""
    if node.settings["DATABASE_URL"]:
        with _client(node) as client:
            return _database(client, node)[collection].count_documents({field: value})
    connection = sqlite3.connect(node.data / FILE_NAME, timeout=20)
    try:
        sql = f'SELECT count(*) FROM "{collection}" WHERE "{field}" = ?'
        return int(connection.execute(sql, (value,)).fetchone()[0])
    finally:
        connection.close()


def _client(node: NodeProcess) -> "MongoClient[Docs]":
    return MongoClient(node.settings["DATABASE_URL"])


def _database(client: "MongoClient[Docs]", node: NodeProcess) -> "Database[Docs]":
    return client[node.settings["DATABASE_URL"].rpartition("/")[2].partition("?")[0]]
