"""Packages: the list, and everything about one."""

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from appliance.api.app import App
from appliance.api.install_manifest import install_manifest
from appliance.api.mdm import package_records
from appliance.api.models import PackagesQuery
from appliance.api.packages import list_packages, listed_packages, package_detail, package_versions
from appliance.api.views import iso
from appliance.domain.package import Package, Presence
from appliance.service.accounts import Role

from .neighbours import reach
from .pages import PageHandler
from .wording import event_view, node_name

PAGE = 50
_HISTORY = 30


class PackagesPage(PageHandler):
    """`/ui/packages`."""

    title = "Packages"
    section = "/ui/packages"

    async def get(self) -> None:
        """A page of packages that fit the filter."""
        query = self.query_as(PackagesQuery)
        if "limit" not in self.request.query_arguments:
            query = query.model_copy(update={"limit": PAGE})
        found = list_packages(self.app.catalogue.all(), query)
        kept = query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_defaults=True)

        def address(**changes: str) -> str:
            wanted = {name: value for name, value in {**kept, **changes}.items() if value}
            return "/ui/packages" + (f"?{urlencode(wanted)}" if wanted else "")

        living = [package for package in self.app.catalogue.all() if not package.withdrawn]
        self.page(
            "packages.html",
            items=await listed_packages(self.app, found.items),
            total=found.total,
            known=len(living),
            next=address(cursor=found.next) if found.next else "",
            first=address() if query.cursor else "",
            query=query,
            filtered=bool(set(kept) - {"sort"}),
            sort_address=lambda name: address(sort=f"-{name}" if query.sort == name else name),
            all_tags=sorted({tag for package in living for tag in package.body.tags}),
            presences=[str(presence) for presence in Presence],
        )


class PackagePage(PageHandler):
    """`/ui/packages/{id or filename}`."""

    section = "/ui/packages"

    async def get(self, name: str) -> None:
        """One package."""
        app = self.app
        package = app.catalogue.resolve(name)
        live = app.transfers.progress(package.id)
        self.title = package.body.filename
        shown = await package_detail(self, package)
        own = app.identity.node_id
        said = {own, *(replica["node"] for replica in shown["replicas"])}
        if own not in {replica["node"] for replica in shown["replicas"]}:
            shown["replicas"].insert(0, _own_replica(package, app))
        verified_at = await app.verifying.verified_at(package.held_sha256) if package.held_sha256 else 0
        self.page(
            "package.html",
            package=shown,
            hashes={"SHA-256": shown["sha256"], "SHA-1": shown["sha1"], **_further(package.body.hashes)},
            origin=node_name(shown["origin"], app) if shown["origin"] else "",
            author=node_name(shown["author"], app),
            transfer=live.view() if live else None,
            silent=[] if package.withdrawn else _silent(app, said),
            reach=reach(app),
            verified=bool(package.held_sha256),
            verified_at=verified_at,
            stopped=await app.transfers.stopped(package),
            mdm_records=await package_records(self, package),
            install_manifest="" if package.withdrawn else install_manifest(package, shown["url"]).decode(),
            command=f"curl -fO '{shown['url']}'",
            path=quote(package.id),
            versions=[each for each in await package_versions(app, package) if not each["current"]],
            keep_days=0 if app.trash.keeping.off else app.trash.keeping.days,
            history=[
                event_view(event, app) for event in await app.events.page(subject=package.id, limit=_HISTORY)
            ],
        )


class UploadPage(PageHandler):
    """`/ui/upload`."""

    title = "Upload"
    section = "/ui/upload"
    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.OPERATOR}

    async def get(self) -> None:
        """Where files are dropped, and what is not complete."""
        uploads = self.app.uploads
        unfinished = [
            upload for upload in await uploads.page(limit=500) if not upload.part and not upload.package
        ]
        self.page(
            "upload.html",
            unfinished=unfinished,
            default_stage=self.app.settings.uploads.stage,
            most=uploads.max_size,
        )


def _own_replica(package: Package, app: App) -> dict[str, Any]:
    """What this node says of a package of which it keeps no record of its own, such as a withdrawn one."""
    return {
        "node": app.identity.node_id,
        "name": app.node_name,
        "presence": str(package.presence),
        "reason": package.reason,
        "current": True,
        "bytes_done": None,
        "at": iso(package.at),
    }


def _silent(app: App, said: set[str]) -> list[tuple[str, str]]:
    """Ids and names of the nodes that said nothing of a package, by name."""
    found = [(id, node.name) for id, node in app.holdings.nodes.items() if id not in said]
    return sorted(found, key=lambda item: item[1])


def _further(hashes: dict[str, str]) -> dict[str, str]:
    names = {"md5": "MD5", "sha512": "SHA-512", "sha3_512": "SHA3-512"}
    return {names.get(kind, kind): value for kind, value in hashes.items()}
