"""Packages: list, show, change, withdraw, restore, verify. Bytes come in over `uploads`."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import InvalidInput, PackageUnknown, PackageWithdrawn
from appliance.domain.package import WANTED, Package, Presence, version_of
from appliance.domain.reach import neighbours
from appliance.service.packages import ReplicaView

from .app import App
from .base import BaseHandler
from .cursors import decode, encode
from .install_manifest import install_manifest
from .models import PackageChange, PackageRestore, PackagesQuery
from .views import (
    current_version_json,
    iso,
    job_json,
    manifest_json,
    package_detail_json,
    package_json,
    version_json,
)

_KEYS: dict[str, Callable[[Package], Any]] = {
    "filename": lambda package: package.body.filename.casefold(),
    "size": lambda package: package.body.size,
    "changed_at": lambda package: package.at,
}


def fits(package: Package, query: PackagesQuery) -> bool:
    """Whether a list with this query shows the package."""
    return (
        (query.withdrawn or query.presence == Presence.WITHDRAWN or not package.withdrawn)
        and (not query.q or query.q.casefold() in package.body.filename.casefold())
        and (not query.stage or package.body.stage == query.stage)
        and (not query.tag or query.tag in package.body.tags)
        and (not query.presence or package.presence == query.presence)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of packages."""

    items: list[Package]
    next: str | None  #: the cursor of the page behind it
    total: int  #: how many fit the query, on all pages


def list_packages(packages: Iterable[Package], query: PackagesQuery) -> Listing:
    """The page that a query asks for.

    Raises:
        InvalidInput: The cursor is none.
    """
    key = _KEYS[query.sort.lstrip("-")]
    reverse = query.sort.startswith("-")
    found = sorted(
        (package for package in packages if fits(package, query)),
        key=lambda package: (key(package), package.id),
        reverse=reverse,
    )
    start = 0
    if query.cursor:
        last = tuple(decode(query.cursor, str if query.sort.endswith("filename") else int))
        places = [(key(package), package.id) for package in found]
        start = sum(1 for place in places if (place >= last if reverse else place <= last))
    page = found[start : start + query.limit]
    more = len(found) > start + query.limit
    return Listing(items=page, next=encode([key(page[-1]), page[-1].id]) if more else None, total=len(found))


class PackagesHandler(BaseHandler):
    """`/api/v1/packages`."""

    query = PackagesQuery

    async def get(self) -> None:
        """A page of packages, from memory."""
        query, packages = self.query_as(PackagesQuery), self.app.catalogue.all()
        self._check_stage(query.stage, packages)
        found = list_packages(packages, query)
        self.write_json(
            {
                "items": await listed_packages(self.app, found.items),
                "next": found.next,
                "total": found.total,
            }
        )

    def _check_stage(self, stage: str, packages: Iterable[Package]) -> None:
        """Let a list be filtered by a stage of the settings, or one that a package of another node has."""
        known = dict.fromkeys((*self.app.settings.node.stages, *(package.body.stage for package in packages)))
        if stage and stage not in known:
            reason = f'There is no stage "{stage}"; the stages are {", ".join(known)}.'
            raise InvalidInput(reason, fields={"stage": reason})


class PackageHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}`."""

    conditional = frozenset({"PATCH", "DELETE"})
    elsewhere = ("PUT",)

    async def get(self, name: str) -> None:
        """One package, with its replicas across the network."""
        package = self.app.catalogue.resolve(name)
        self.version = version_of(package.revision, package.author)
        self.write_json(await package_detail(self, package))

    async def patch(self, name: str) -> None:
        """Change stage, tags, notes or metadata."""
        change = self.body_as(PackageChange)
        package = await self.app.packages.change(
            self.app.catalogue.resolve(name).id,
            stage=change.stage,
            tags=change.tags,
            notes=change.notes,
            metadata=change.metadata,
            expect_revision=change.revision,
            condition=self.precondition,
            actor=self.actor,
            within=self.within,
        )
        self._changed(package)

    async def delete(self, name: str) -> None:
        """Withdraw it from every node."""
        package = await self.app.packages.withdraw(
            self.app.catalogue.resolve(name).id,
            condition=self.precondition,
            actor=self.actor,
            within=self.within,
        )
        self._changed(package)

    def _changed(self, package: Package) -> None:
        self.set_header("ETag", f'"{version_of(package.revision, package.author)}"')
        self.write_json(package_json(package, self.app.download_url))


class InstallManifestHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}/install-manifest`."""

    async def get(self, name: str) -> None:
        """What the MDM command InstallEnterpriseApplication takes, as a property list."""
        package = self.app.catalogue.resolve(name)
        if package.withdrawn:
            raise PackageWithdrawn("The package was withdrawn: there is nothing to install.")
        self.set_header("Content-Type", "application/xml")
        self.finish(install_manifest(package, package_json(package, self.app.download_url)["url"]))


class ManifestHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}/manifest`."""

    async def get(self, name: str) -> None:
        """Size, hashes, and the SHA-1 of every chunk."""
        manifest = await self.app.holdings.manifest(self.app.catalogue.resolve(name).body)
        if manifest is None:
            raise PackageUnknown("The manifest is not known here yet; it comes with the bytes.")
        self.write_json(manifest_json(manifest))


class VerifyHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}/verify`."""

    async def post(self, name: str) -> None:
        """Enqueue the check of the file here against its hashes."""
        job = await self.app.packages.verify(name, actor=self.actor)
        self.write_json({"job": job_json(job)}, 202)


class VersionsHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}/versions`."""

    async def get(self, name: str) -> None:
        """The current version, and those that can be restored on this node."""
        items = await package_versions(self.app, self.app.catalogue.resolve(name))
        self.write_json({"items": items, "next": None})


class RestoreHandler(BaseHandler):
    """`/api/v1/packages/{id or filename}/restore`."""

    async def post(self, name: str) -> None:
        """Enqueue the restoring of an earlier version."""
        wanted = self.body_as(PackageRestore)
        version, job = await self.app.restore.request(
            name, wanted.version, actor=self.actor, within=self.within
        )
        shown = await asyncio.to_thread(version_json, version, self.app.trash.keeping, self.app.blobs)
        self.write_json({"job": job_json(job), "version": shown}, 202)


async def package_versions(app: App, package: Package) -> list[dict[str, Any]]:
    """The current version of a package, and those in the trash, the one that left last first."""
    current = "" if package.withdrawn else package.body.sha256
    earlier = [each for each in await app.trash.versions(package.id) if each.sha256 != current]
    found = [] if package.withdrawn else [current_version_json(package)]
    return found + await asyncio.to_thread(
        lambda: [version_json(each, app.trash.keeping, app.blobs) for each in earlier]
    )


async def package_detail(handler: BaseHandler, package: Package) -> dict[str, Any]:
    """A package with its replicas across the network, and how much of it has arrived where it is on its way."""
    app = handler.app
    app.neighbourhood.look()
    replicas = {replica.node: replica for replica in await app.packages.replicas(package.id)}
    own = await app.neighbourhood.own()
    arriving = {}
    for id, node in app.holdings.nodes.items():
        sight = own if id == own.node else app.neighbourhood.sight(id)
        moving = sight.of(package.id, package.body.sha256) if sight is not None else None
        known = replicas.get(id)
        if moving is None or (known and known.current and known.presence == Presence.HELD):
            continue
        arriving[id] = moving.done
        replicas[id] = ReplicaView(
            node=id, name=node.name, presence=str(Presence.ARRIVING), reason="on its way there",
            sha256=package.body.sha256, current=True, at=known.at if known else 0,
        )  # fmt: skip
    superseded = await app.packages.superseded(package.id)
    shown = sorted(replicas.values(), key=lambda replica: replica.name)
    return package_detail_json(
        package,
        app.download_url,
        shown,
        superseded,
        arriving,
        await app.packages.spread(package.id),
        unheard(app, replicas),
        (await next_looks(app, [package])).get(package.id, 0),
    )


async def listed_packages(app: App, packages: Sequence[Package]) -> list[dict[str, Any]]:
    """Packages as a list shows them."""
    times = await next_looks(app, packages)
    return [
        {
            **package_json(package, app.download_url),
            "retry_at": iso(times.get(package.id, 0)),
            "notice": app.packages.nowhere(package),
        }
        for package in packages
    ]


async def next_looks(app: App, packages: Sequence[Package]) -> dict[str, int]:
    """When packages that should be here and are not are looked at again, by id; UTC milliseconds, never in the past."""
    wanted = [package for package in packages if package.presence in WANTED]
    if not wanted:
        return {}
    times, all_again = await app.transfers.next_looks(wanted), await app.replication.next_look()
    return {id: max(at or all_again, app.now()) for id, at in times.items()}


def unheard(app: App, said: Collection[str]) -> list[dict[str, Any]]:
    """The nodes that have not said anything about a package, and why nothing is known of them.

    Args:
        app: The object graph.
        said: Ids of those that have.
    """
    nodes, found = app.holdings.nodes, []
    for id in nodes.keys() - set(said):
        reason, since, health = "it has not said anything about this package yet", 0, app.peers.health(id)
        if health is not None and health.word:
            reason, since = health.word, health.since
        elif health is None and id != app.identity.node_id:
            near = [nodes[peer].name for peer in neighbours(nodes, id)]
            shown = (
                f"reached only through {' or '.join(near[:3])}" if near else "not registered with this node"
            )
            reason = f"{shown}, and it has not said anything about this package yet"
        found.append({"node": id, "name": nodes[id].name, "reason": reason, "since": iso(since)})
    return sorted(found, key=lambda one: str(one["name"]))
