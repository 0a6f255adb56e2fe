"""What the tests of the mirror share: a store, a catalogue, an MDM in memory, and a clock that stands still."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.domain.names import package_id
from appliance.domain.package import Package, Presence
from appliance.service.catalogue import Catalogue, package_doc
from appliance.service.digests import complete
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Doc, Replace, Store
from jamf_bridge.driver import RemotePackage
from jamf_bridge.mirror.links import link_id
from jamf_bridge.mirror.mirroring import Mirror, MirrorSummary
from jamf_bridge.servers.config import ServerConfig
from jamf_bridge.servers.server import Server
from tests.builders import package_body
from tests.fakes.driver_d import FakeMdm

START = 1_800_000_000_000
DAY = 86_400_000


class Clock:
    """UTC milliseconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.ms = START

    def __call__(self) -> int:
        return self.ms


class CountedStore:
    """A store that counts how often it is written to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        if name in {"insert", "replace", "delete", "batch", "enqueue"}:
            self.writes += 1
        return getattr(self._store, name)


class AskedDigests:
    """Stands for `Digests`: remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ensure(self, package: Package) -> bool:
        """As `Digests.ensure`."""
        if package.id not in self.asked:
            self.asked.append(package.id)
        return complete(package)


def further(data: bytes) -> dict[str, str]:
    """The further digests of bytes."""
    return {kind: hashlib.new(kind, data).hexdigest() for kind in ("md5", "sha512", "sha3_512")}


def package(filename: str, data: bytes | None = None, **changes: Any) -> Package:
    """A package that is held here; its bytes are its name unless they are given."""
    data = filename.encode() if data is None else data
    body = package_body(filename, data, **{"hashes": further(data), **changes})
    return Package(
        id=package_id(filename),
        revision=1,
        author="n" * 52,
        at=START,
        withdrawn=False,
        body=body,
        presence=Presence.HELD,
        reason="because",
        held_sha256=body.sha256,
        held_filename=filename,
    )


class Desk:
    """A mirror and all that it needs."""

    def __init__(self, store: Store, root: Path) -> None:
        self.clock = Clock()
        self.store: Any = CountedStore(store)
        self.mdm = FakeMdm()
        self.digests = AskedDigests()
        self.catalogue = Catalogue(store)
        self.blobs = BlobStore(Layout(root / "data"), floor_bytes=0)
        self.mirror = Mirror(
            store=self.store,
            catalogue=self.catalogue,
            digests=self.digests,  # type: ignore[arg-type]
            blobs=self.blobs,
            now=self.clock,
        )
        self.server = Server(
            id="s1", config=ServerConfig.model_validate({"name": "Jamf", "kind": "fake"}), rev=1
        )

    def configure(self, section: str = "mirror", **values: Any) -> None:
        """Change the settings."""
        config = self.server.config.model_dump()
        config[section].update(values)
        self.server = replace(
            self.server, config=ServerConfig.model_validate(config), rev=self.server.rev + 1
        )

    async def put(self, package: Package, *, revision: int = 1, at: int = 0) -> Package:
        """Let the catalogue have a package, or its next revision."""
        made = replace(package, revision=revision, at=at or START + revision)
        (doc,) = await self.store.batch([Replace("packages", package_doc(made, self.clock()))])
        return self.catalogue.take(doc)

    async def run(
        self, remote: Sequence[RemotePackage] | None = None, *, verify: bool = False, whole: bool = True
    ) -> MirrorSummary:
        """One run, on a fresh listing unless one is given."""
        listed = await self.mdm.list_packages() if remote is None else remote
        return await self.mirror.run(self.server, self.mdm, listed, verify=verify, whole=whole)

    async def link(self, filename: str) -> Doc:
        """What is kept of a package."""
        doc: Doc | None = await self.store.get("mdm_links", link_id("s1", package_id(filename)))
        assert doc is not None
        return doc

    async def events(self, type: str) -> list[Doc]:
        """Events of a type, oldest first."""
        found: list[Doc] = await self.store.find("events", {"type": type}, order="seq", limit=500)
        return found


def with_desk(root: Path, test: Callable[[Desk], Awaitable[None]]) -> None:
    """Run a test with a desk."""

    async def go() -> None:
        store = await open_store("", root)
        try:
            await test(Desk(store, root))
        finally:
            await store.close()

    asyncio.run(go())
