"""Several nodes that a test starts, joins and ends together."""

import itertools
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.mongod import Mongod
from tests.fakes.proxy import Proxy
from tests.ports import free_port

from .node import NodeProcess


class Network:
    """Makes nodes with one kind of database; leaving the block ends all of them and their proxies.

    Args:
        root: A directory for everything.
        mongod: The server for metadata; None for SQLite.
        settings: Settings of all nodes, as for `NodeProcess`.
    """

    def __init__(
        self, root: Path, mongod: Mongod | None = None, settings: dict[str, str] | None = None
    ) -> None:
        self.root = root
        self.mongod = mongod
        self.settings = settings or {}
        self.nodes: list[NodeProcess] = []
        self.proxies: dict[str, Proxy] = {}  #: by the name of the node behind it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.dispose()

    def node(
        self,
        name: str,
        *,
        proxied: bool = False,
        database_url: str | None = None,
        start: bool = True,
        **settings: str,
    ) -> NodeProcess:
        """Make and start a node.

        Args:
            name: Its name.
            proxied: Whether its peers reach it through a `Proxy`, found in `proxies`.
            database_url: Another database than the network's.
            start: Whether to start it.
            settings: Its own settings.
        """
        if database_url is None:
            database_url = self.mongod.url(f"e2e{uuid.uuid4().hex[:12]}") if self.mongod else ""
        port, url = free_port(), ""
        if proxied:
            self.proxies[name] = proxy = Proxy(port).start()
            url = proxy.url
        node = NodeProcess(
            self.root / name,
            name,
            database_url=database_url,
            url=url,
            port=port,
            settings={**self.settings, **settings},
        )
        self.nodes.append(node)
        return node.start() if start else node

    def chain(self, *names: str) -> list[NodeProcess]:
        """Start nodes, each registered with the one before it only."""
        nodes = [self.node(name) for name in names]
        for inviter, joiner in itertools.pairwise(nodes):
            joiner.join(inviter)
        return nodes

    def logs(self) -> str:
        """The end of every node's log, for a failed test."""
        return "\n".join(f"--- {node.name} ---\n{node.tail(40)}" for node in self.nodes)

    def dispose(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.dispose()
        for proxy in self.proxies.values():
            proxy.stop()
