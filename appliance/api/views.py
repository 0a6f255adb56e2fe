"""How things look in JSON."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from appliance.domain.holding import SetAside
from appliance.domain.job import Job
from appliance.domain.manifest import CHUNK_SIZE, SHA1_BYTES, Manifest, chunk_count
from appliance.domain.package import Package
from appliance.domain.trash import Keeping, Version
from appliance.service.packages import ReplicaView, Spread
from appliance.service.peers import Peer
from appliance.service.scrub import Pass, ScrubStatus
from appliance.service.uploads import Upload
from appliance.store.blobs import BlobStore

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
_FIRST_MS = (datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH) // _MILLISECOND
_LAST_MS = (datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH) // _MILLISECOND


def iso(ms: int) -> str | None:
    """UTC milliseconds as ISO 8601, None for 0.

    Records of other nodes carry times of their making: what lies beyond the years 1 to 9999 is shown as their end.
    """
    if not ms:
        return None
    moment = _EPOCH + datetime.timedelta(milliseconds=min(max(ms, _FIRST_MS), _LAST_MS))
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def package_json(package: Package, base_url: str) -> dict[str, Any]:
    """A package; `base_url` is the node's, with the download context if there is one."""
    body = package.body
    return {
        "id": package.id,
        "filename": body.filename,
        "size": body.size,
        "sha1": body.sha1,
        "sha256": body.sha256,
        "hashes": dict(body.hashes),
        "stage": body.stage,
        "tags": list(body.tags),
        "notes": body.notes,
        "metadata": body.metadata,
        "revision": package.revision,
        "author": package.author,
        "changed_at": iso(package.at),
        "uploaded_at": iso(body.uploaded_at),
        "uploaded_by": body.uploaded_by,
        "origin": body.origin,
        "withdrawn": package.withdrawn,
        "presence": str(package.presence),
        "reason": package.reason,
        "wanted_since": iso(package.wanted_since),
        "retry_at": iso(package.retry_at),
        "url": f"{base_url}/Packages/{quote(body.filename)}",
    }


def package_detail_json(
    package: Package,
    base_url: str,
    replicas: list[ReplicaView],
    superseded: list[Version],
    arriving: Mapping[str, int],
    spread: Spread,
    unheard: list[dict[str, Any]],
    retry_at: int,
) -> dict[str, Any]:
    """A package with its replicas across the network, where its manifest is, and what lost the name to it here.

    Args:
        package: The package.
        base_url: The node's, with the download context if there is one.
        replicas: What nodes say of it.
        superseded: What lost the name and is in the trash.
        arriving: By node, how many bytes of it are there so far, where that is known.
        spread: Which nodes it can get to.
        unheard: Nodes that have not said anything about it, and why.
        retry_at: When this node looks at it again if it should be here and is not, UTC milliseconds; else 0.
    """
    return {
        **package_json(package, base_url),
        "retry_at": iso(retry_at),
        "admitted_by": spread.admitting,
        "cut_off": spread.cut_off,
        "notice": spread_notice(spread),
        "unheard": unheard,
        "replicas": [
            {
                "node": replica.node,
                "name": replica.name,
                "presence": replica.presence,
                "reason": replica.reason,
                "sha256": replica.sha256,
                "current": replica.current,
                "at": iso(replica.at),
                "bytes_done": arriving.get(replica.node),
            }
            for replica in replicas
        ],
        "manifest": {
            "chunk_size": CHUNK_SIZE,
            "count": chunk_count(package.body.size),
            "digest": package.body.manifest,
            "url": f"/api/v1/packages/{package.id}/manifest",
        },
        "superseded": [
            {"sha256": each.sha256, "filename": each.filename, "at": iso(each.at)} for each in superseded
        ],
    }


def current_version_json(package: Package) -> dict[str, Any]:
    """The version of a package that the network has now."""
    body = package.body
    return {
        "sha256": body.sha256,
        "filename": body.filename,
        "size": body.size,
        "revision": package.revision,
        "author": package.author,
        "stage": body.stage,
        "tags": list(body.tags),
        "notes": body.notes,
        "uploaded_at": iso(body.uploaded_at),
        "uploaded_by": body.uploaded_by,
        "current": True,
        "here": package.held_sha256 == body.sha256,
        "why": "",
        "at": None,
        "expires_at": None,
    }


def version_json(version: Version, keeping: Keeping, blobs: BlobStore) -> dict[str, Any]:
    """A version in the trash. Looks whether its file is there, and so blocks."""
    body = version.body
    try:
        size: int | None = blobs.path(version.sha256).stat().st_size
    except OSError:
        size = None
    return {
        "sha256": version.sha256,
        "filename": version.filename,
        "size": size if version.size is None else version.size,
        "revision": version.revision,
        "author": version.author,
        "stage": body.stage if body else "",
        "tags": list(body.tags) if body else [],
        "notes": body.notes if body else "",
        "uploaded_at": iso(body.uploaded_at) if body else None,
        "uploaded_by": body.uploaded_by if body else "",
        "current": False,
        "here": size is not None,
        "why": str(version.why),
        "at": iso(version.at),
        "expires_at": iso(keeping.until(version)),
    }


def spread_notice(spread: Spread) -> str:
    """What to do about a package that no node admits, or that can't get to some that do; "" if it gets everywhere."""
    names = spread.cut_off
    if not names:
        return spread.nowhere
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"No path leads this package to {shown}: pair {'it' if len(names) == 1 else 'them'} with a node that has the "
        "package, or promote the package so that the nodes in between take it too."
    )


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """A manifest, chunk by chunk."""
    packed = manifest.chunks.hex()
    width = SHA1_BYTES * 2
    return {
        "size": manifest.size,
        "sha1": manifest.sha1,
        "sha256": manifest.sha256,
        "chunk_size": CHUNK_SIZE,
        "chunks": [packed[start : start + width] for start in range(0, len(packed), width)],
    }


def upload_json(upload: Upload) -> dict[str, Any]:
    """An upload that is not complete."""
    return {
        "id": upload.id,
        "filename": upload.filename,
        "size": upload.size,
        "offset": upload.offset,
        "stage": upload.stage,
        "tags": list(upload.tags),
        "partial": upload.part,
        "actor": upload.actor,
        "created_at": iso(upload.created_at),
        "expires_at": iso(upload.expires_at),
        "url": f"/api/v1/uploads/{upload.id}",
    }


def peer_json(
    peer: Peer,
    *,
    stage: str,
    version: str,
    healthy: bool,
    set_aside: Mapping[str, tuple[str, SetAside]],
    now: int,
) -> dict[str, Any]:
    """A registered peer and how it is doing.

    Args:
        peer: The registration.
        stage: Of the node, as its record says.
        version: Of the node, as its record says.
        healthy: Whether it answers.
        set_aside: By package id, the file name, and why the peer is not asked for it now.
        now: UTC milliseconds.
    """
    return {
        "id": peer.id,
        "name": peer.name,
        "url": peer.url,
        "state": str(peer.state),
        "stage": stage,
        "version": version,
        "healthy": healthy,
        "health": peer.health.word or str(peer.state),
        "failing_since": iso(peer.health.since),
        "joined_at": iso(peer.joined_at),
        "last_seen": iso(peer.last_seen),
        "last_error": peer.last_error,
        "failures": peer.failures,
        "retry_at": iso(peer.retry_at),
        "strikes": peer.strikes,
        "last_strike": peer.last_strike,
        "quarantined_until": iso(peer.set_aside_until(now)),
        "set_aside": [
            {"package": id, "filename": name, "until": iso(away.until), "reason": away.reason}
            for id, (name, away) in set_aside.items()
        ],
        "clock_offset_s": peer.clock_offset_ms / 1000,
        "notice": peer.notice,
    }


def transfer_json(doc: dict[str, Any], retry_at: int) -> dict[str, Any]:
    """A transfer; `retry_at` is when one that waits goes on, UTC milliseconds."""
    names = ("package", "filename", "sha256", "size", "state", "bytes_done", "chunks_done", "chunks", "rate")
    return {
        "id": doc["_id"],
        **{name: doc[name] for name in names},
        "sources": list(doc["sources"]),
        "error": doc["error"],
        "attempts": doc["attempts"],
        "retry_at": iso(retry_at),
        "started_at": iso(doc["started_at"]),
        "updated_at": iso(doc["updated_at"]),
    }


def scrub_json(found: ScrubStatus) -> dict[str, Any]:
    """How a scrub is doing."""
    times = {name: iso(getattr(found, name)) for name in ("requested_at", "oldest_at")}
    return {**asdict(found), **times, "current": _pass_json(found.current), "last": _pass_json(found.last)}


def _pass_json(found: Pass | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**asdict(found), "began_at": iso(found.began_at), "ended_at": iso(found.ended_at)}


def job_json(job: Job) -> dict[str, Any]:
    """A job."""
    return {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "args": dict(job.args),
        "state": str(job.state),
        "priority": job.priority,
        "attempts": job.attempts,
        "worker": job.worker,
        "error": job.error,
        "run_at": iso(job.run_at),
        "created_at": iso(job.created_at),
        "updated_at": iso(job.updated_at),
    }
