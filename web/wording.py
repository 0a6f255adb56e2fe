"""Events in words."""

from collections.abc import Mapping
from typing import Any

from appliance.api.app import App
from appliance.api.views import iso, job_json
from appliance.domain.event import Event
from appliance.domain.job import Job
from appliance.domain.sizes import human_size
from appliance.jobs.supervisor import WHAT_HAPPENED

WORDS: dict[str, str] = {
    "package.published": "published",
    "package.replaced": "replaced by other bytes",
    "package.changed": "changed",
    "package.withdrawn": "withdrawn",
    "package.restored": "earlier version restored",
    "package.superseded": "lost its name to another file; the old one is kept",
    "package.reinstated": "replacement put back that a change elsewhere had undone",
    "package.arrived": "arrived here",
    "package.released": "left this node",
    "package.damaged": "is damaged here",
    "package.repaired": "repaired here",
    "package.replicated": "is on every node that takes it",
    "replication.stuck": "packages are stuck",
    "replication.recovered": "all packages move again",
    "transfer.failed": "transfer gave up",
    "transfer.stalled": "transfer stopped for now",
    "peer.invited": "invite made",
    "peer.invite_revoked": "invite revoked",
    "transfer.retried": "transfer tried again",
    "transfer.cancelled": "transfer cancelled",
    "transfer.prioritized": "transfer put first",
    "job.retried": "job tried again",
    "job.cancelled": "job cancelled",
    "job.prioritized": "job put first",
    "upload.ended": "upload deleted",
    "peer.joined": "joined",
    "peer.left": "left",
    "peer.down": "cannot be reached",
    "peer.up": "is back",
    "peer.struck": "sent wrong data",
    "peer.clock": "clock differs from this node's",
    "task.failed": f"background task {WHAT_HAPPENED}",
    "node.removed": "removed from the network",
    "node.rolled_back": "database was older than what peers have; repaired from them",
    "node.twin_detected": "another copy of this node is running, so nothing is accepted here",
    "node.started": "started",
    "node.stopped": "stopped",
    "scrub.damage": "scrub found damaged files",
    "disk.low": "disk is nearly full",
    "disk.recovered": "disk has room again",
    "certificate.expiring": "certificate is about to expire",
    "certificate.refused": "new certificate can't be used, the old one stays",
    "account.changed": "account changed",
    "token.created": "token made",
    "token.revoked": "token revoked",
    "session.started": "signed in",
    "session.ended": "signed out",
    "sign_in.refused": "sign-in refused",
    "sign_in.locked": "locked for a while after many failed sign-ins",
    "destination.added": "notifications added",
    "destination.changed": "notifications changed",
    "destination.removed": "notifications removed",
    "destination.suspended": "takes no notifications, so they wait",
    "destination.resumed": "gets notifications again",
    "mdm.added": "MDM server connected",
    "mdm.changed": "MDM server changed",
    "mdm.removed": "MDM server disconnected",
    "mdm.attention": "MDM server needs attention",
    "mdm.recovered": "MDM server works again",
    "mdm.pulled": "taken in from the MDM",
    "mdm.quarantined": "from the MDM is not what its record states; set aside",
    "mdm.record_written": "package record written",
    "mdm.record_conflict": "package record differs and was left as it is",
    "mdm.point_written": "distribution point written",
    "mdm.hook_refused": "MDM webhook refused",
}
JOBS: dict[str, str] = {
    "transfer.fetch": "fetch",
    "transfer.fetch_small": "fetch",
    "package.verify": "verify file",
    "package.restore": "restore earlier version",
    "package.digest": "compute checksums",
    "package.release_check": "check that another node has a copy",
    "blob.verify": "verify file",
    "blob.look": "look for changed files",
    "scrub.run": "verify all files",
    "replication.reconcile": "check what is missing",
    "replication.compare": "compare with peers",
    "replication.watchdog": "look for stuck packages",
    "maintenance.purge": "clean up",
    "directory.recheck": "check accounts of the directory",
    "vigil.look": "check disk and certificate",
    "notifications.send": "send notification",
    "mdm.sync": "sync with the MDM server",
    "mdm.hint": "look at what the MDM server told",
    "mdm.upload": "upload to the MDM server",
    "mdm.pull": "fetch from the MDM server",
}
_BAD = {
    "package.damaged", "scrub.damage", "replication.stuck", "transfer.failed", "peer.down", "peer.struck",
    "disk.low", "certificate.expiring", "certificate.refused", "node.twin_detected", "mdm.attention",
    "mdm.quarantined",
}  # fmt: skip
_WARN = {
    "transfer.stalled", "sign_in.refused", "sign_in.locked", "package.superseded", "package.withdrawn",
    "peer.clock", "task.failed", "node.removed", "node.rolled_back", "destination.suspended", "mdm.record_conflict",
    "mdm.hook_refused",
}  # fmt: skip


def event_view(event: Event, app: App) -> dict[str, Any]:
    """An event as pages show it.

    Returns:
        seq, at, type, kind ("bad", "warn" or ""), what (words), name (of what it is about), link, actor, address and
        changes (pairs of a field and what became of it).
    """
    data = dict(event.data)
    address = data.pop("address", "")
    package = app.catalogue.by_id(event.subject)
    known = event.type.startswith(("package.", "transfer.")) and package is not None
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "type": event.type,
        "kind": "bad" if event.type in _BAD else "warn" if event.type in _WARN else "",
        "what": words_of(event.type),
        "name": str(data.get("filename") or data.get("name") or node_name(event.subject, app)),
        "link": f"/ui/packages/{event.subject}" if known else "",
        "actor": node_name(event.actor.removeprefix("node:"), app),
        "address": address,
        "changes": _changes(data),
    }


def job_view(job: Job, app: App) -> dict[str, Any]:
    """A job as pages show it: as in the API, with what it does in words, and the package that it is about."""
    package = app.catalogue.by_id(str(job.args.get("package", "")))
    return {
        **job_json(job),
        "what": JOBS.get(job.name, job.name.replace(".", " ").replace("_", " ")),
        "package": package.id if package is not None else "",
        "filename": package.body.filename if package is not None else "",
    }


def words_of(type: str) -> str:
    """A kind of event in words; one that is not known, of a later version, by its name."""
    return WORDS.get(type, type.replace(".", " ").replace("_", " "))


def subject_name(subject: str, app: App) -> str:
    """What an event is about: a package's file name, a node's name, anything else as it is."""
    package = app.catalogue.by_id(subject)
    return package.body.filename if package is not None else node_name(subject, app)


def node_name(id: str, app: App) -> str:
    """A node's name by its id; anything else as it is."""
    node = app.holdings.nodes.get(id)
    return node.name if node else id


def _changes(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    before, after = data.get("before"), data.get("after")
    found: list[tuple[str, str]] = []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                found.append((name, f"{_text(before.get(name))} → {_text(after.get(name))}"))
    skipped = {"filename", "name", *({"before", "after"} if found else ())}
    if isinstance(before, str) and after is None and "state" in data:
        found.append(("state", f"{before} → {data['state']}"))
        skipped |= {"before", "state"}
    return found + [(name, _shown(name, value)) for name, value in data.items() if name not in skipped]


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and name in {"sha256", "before", "kept"}:
        return f"{value[:16]}…"  # the package's page has all of it
    if name in {"size", "received", "trash"} and isinstance(value, int):
        return human_size(value)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value not in (None, "") else "none"
