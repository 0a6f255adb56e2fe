"""Every version of a package that was seen here, as far as needed to know it again in an MDM.

An MDM states MD5 and SHA3-512 of a file, a package record only the SHA-256 of what it replaces. So the further
digests of each version are kept when it is replaced, one document for each server and package: `versions` newest
first, and `since`, when the newest was first seen here, 0 if it came from the MDM itself. `sent` is when an upload of
a version to the MDM was begun whose arrival was not seen yet: its bytes may appear there at any time. `gone_at` is
since when the package is not known here, 0 while it is.
"""

import contextlib
from collections.abc import Mapping, Sequence

from appliance.domain.errors import StaleRevision
from appliance.domain.moment import too_early
from appliance.domain.package import Package
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Remove, Replace, Store

from .digests import agree
from .driver import RemotePackage

COLLECTION = "mdm_versions"
KEPT = 32  #: versions of one package
FORGOTTEN_MS = (
    120 * 86_400_000
)  #: what is known of a package goes when the package itself was not known for so long
LANDING_MS = 6 * 3_600_000  #: an upload that was not seen for so long is not on its way any more
_TRIES = 5


def versions_id(server: str, package: str) -> str:
    """The id of a package's document."""
    return f"{server}:{package}"


async def versions_of(store: Store, server: str) -> dict[str, Doc]:
    """Every document of a server by package id."""
    return {doc["package"]: doc async for doc in every(store, COLLECTION, {"server": server})}


def noted(doc: Doc | None, server: str, package: Package, now: int) -> Doc | None:
    """The document with what a package is now, None if it says so already.

    Args:
        doc: As stored, None if there is none.
        server: The server's id.
        package: The package.
        now: UTC milliseconds.
    """
    body = package.body
    old = list(doc["versions"]) if doc else []
    same = bool(doc and old[0]["sha256"] == body.sha256 and doc["withdrawn"] == package.withdrawn)
    if same and doc is not None and doc.get("gone_at"):
        return {**doc, "gone_at": 0}
    if same and body.hashes.items() <= old[0]["hashes"].items():
        return None
    known = next((version for version in old if version["sha256"] == body.sha256), None)
    newest = {
        "sha256": body.sha256,
        "size": body.size,
        "hashes": {**(known["hashes"] if known else {}), **body.hashes},
        "sent": known["sent"] if known else 0,
    }
    rest = [version for version in old if version["sha256"] != body.sha256]
    return {
        **(doc or {"_id": versions_id(server, package.id), "server": server, "package": package.id}),
        "versions": [newest, *rest][:KEPT],
        "withdrawn": package.withdrawn,
        "since": doc["since"] if doc and same else now,
        "gone_at": 0,
    }


def gone(doc: Doc, now: int) -> Operation | None:
    """What to write of a package that this node does not know now, not even as withdrawn.

    That alone is no proof: its record may be damaged, and what was known of it is needed when it comes back.
    """
    if not doc.get("gone_at"):
        return versions_write({**doc, "gone_at": now})
    return Remove(COLLECTION, doc["_id"]) if now - doc["gone_at"] > FORGOTTEN_MS else None


def earlier(doc: Doc | None, package: Package, remote: RemotePackage) -> Doc | None:
    """Which earlier version of a package the bytes of a record are; of a withdrawn one its last counts, too.

    The answer has "sha256" and "sent"; None if the bytes are of no version that is known.
    """
    body = package.body
    versions: list[Doc] = list(doc["versions"]) if doc else []
    if package.withdrawn and not any(version["sha256"] == body.sha256 for version in versions):
        versions.append({"sha256": body.sha256, "size": body.size, "hashes": body.hashes, "sent": 0})
    for version in versions:
        if version["sha256"] == body.sha256 and not package.withdrawn:
            continue
        if agree({**version["hashes"], "sha256": version["sha256"]}, remote.hashes):
            return version
    stated = remote.hashes.get("sha256", "").lower()
    return {"sha256": stated, "sent": 0} if stated in body.replaces else None


def on_its_way(version: Doc, now: int) -> bool:
    """Whether an upload of a version was begun and its arrival not seen yet."""
    return bool(version["sent"]) and too_early(version["sent"] + LANDING_MS, now, LANDING_MS)


def is_expected(doc: Doc | None, sha256: str, now: int) -> bool:
    """Whether an upload of a package's version, by its SHA-256, is on its way."""
    versions = doc["versions"] if doc else []
    return any(each["sha256"] == sha256 and on_its_way(each, now) for each in versions)


def landed(doc: Doc, sha256: str) -> Doc:
    """The document after the bytes of an upload were seen in the MDM."""
    versions = [{**each, "sent": 0} if each["sha256"] == sha256 else each for each in doc["versions"]]
    return {**doc, "versions": versions}


def versions_write(doc: Doc) -> Replace:
    """The operation that writes a document, if nobody wrote it since it was read."""
    return Replace(
        COLLECTION, {name: value for name, value in doc.items() if name != "_rev"}, doc.get("_rev", 0)
    )


async def note_sent(store: Store, server: str, package: Package, now: int) -> None:
    """Note, before it is done, that the bytes of a package are uploaded to an MDM.

    Raises:
        StaleRevision: Others wrote the document every time.
    """
    for _ in range(_TRIES):
        doc = await store.get(COLLECTION, versions_id(server, package.id))
        doc = noted(doc, server, package, now) or doc
        assert doc is not None
        doc = {**doc, "versions": [{**doc["versions"][0], "sent": now}, *doc["versions"][1:]]}
        try:
            await store.batch([versions_write(doc)])
        except StaleRevision:
            continue
        return
    raise StaleRevision("The versions of a package are being written by others; try again.")


async def note_pulled(store: Store, server: str, package: Package | None, sha256: str) -> None:
    """Note that what a package is now came from an MDM: what comes up there from now on is newer, whenever that is."""
    if package is None or package.withdrawn or package.body.sha256 != sha256:
        return
    old = await store.get(COLLECTION, versions_id(server, package.id))
    doc = {**(noted(old, server, package, 0) or old or {}), "since": 0}
    with contextlib.suppress(StaleRevision):
        await store.batch([versions_write(doc)])


async def note_digests(
    store: Store, server: str, package: Package, sha256: str, size: int, hashes: Mapping[str, str]
) -> None:
    """Remember the digests of an earlier version that were found out only now. It is known again without them, too."""
    doc = await store.get(COLLECTION, versions_id(server, package.id))
    if doc is None:
        return
    old = next((each for each in doc["versions"] if each["sha256"] == sha256), None)
    found = {
        "sha256": sha256,
        "size": size,
        "hashes": {kind: digest for kind, digest in hashes.items() if kind != "sha256"},
        "sent": old["sent"] if old else 0,
    }
    rest: Sequence[Doc] = [each for each in doc["versions"] if each["sha256"] != sha256]
    changed = {**doc, "versions": [*rest[:1], found, *rest[1:]][:KEPT]}
    try:
        await store.batch([versions_write(changed)])
    except StaleRevision:
        return
