"""What a person should look at, and where it can be mended."""

from dataclasses import dataclass

from appliance.api.app import App
from appliance.api.base import BaseHandler
from appliance.api.views import iso
from appliance.domain.destination import DestinationState
from appliance.domain.moment import clock
from appliance.domain.package import Presence
from appliance.domain.sizes import human_size
from appliance.domain.states import PeerState
from appliance.jobs.supervisor import WHAT_HAPPENED
from appliance.service.accounts import Role
from appliance.service.damaged import damaged_words
from appliance.service.peers import CLOCK_MS
from appliance.service.system import Readiness, SystemReport
from appliance.service.vigil import CERTIFICATE

#: collection and state of what is known of records in MDM servers, and how one and several are told
_RECORDS = (
    (
        "mdm_links",
        "conflict",
        "package differs from its record in an MDM.",
        "packages differ from their records in an MDM.",
    ),
    (
        "mdm_remote",
        "quarantined",
        "file of an MDM did not match its record.",
        "files of an MDM did not match their records.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that a person should look at."""

    kind: str  #: "bad" or "warn"
    text: str
    address: str = ""  #: where it can be mended


async def concerns(handler: BaseHandler, report: SystemReport, readiness: Readiness) -> list[Concern]:
    """What needs attention, the worst first."""
    app, found = handler.app, []
    for check in readiness.checks.values():
        if not check.ok:
            found.append(Concern(kind="bad", text=check.reason))
    counts = dict.fromkeys(Presence, 0)
    for package in app.catalogue.all():
        counts[package.presence] += 1
    if damaged := damaged_words(app.catalogue):
        found.append(Concern(kind="bad", text=damaged, address="/ui/packages?presence=damaged"))
    if report.counts.get("transfers_failed"):
        text = _plural(report.counts["transfers_failed"] or 0, "transfer gave up.", "transfers gave up.")
        found.append(Concern(kind="bad", text=text, address="/ui/transfers?state=failed"))
    found.extend(_peer_concerns(handler))
    found.extend(_inner_concerns(handler))
    found.extend(await _missing(app))
    if report.counts.get("jobs_failed"):
        text = _plural(report.counts["jobs_failed"] or 0, "job gave up.", "jobs gave up.")
        found.append(Concern(kind="warn", text=text, address="/ui/jobs?state=failed"))
    disk = report.disk
    if disk.free < max(disk.floor * 2, disk.total // 20):
        trash = (
            f" Earlier versions use {human_size(disk.trash)}; the oldest are deleted when needed."
            if disk.trash
            else ""
        )
        unfinished = f" Unfinished uploads use {human_size(disk.uploads)}." if disk.uploads else ""
        text = f"The disk is nearly full: new packages may find no room.{trash}{unfinished}"
        address = "/ui/upload" if unfinished and _operates(handler) else ""
        found.append(Concern(kind="warn", text=text, address=address))
    return found


async def _missing(app: App) -> list[Concern]:
    """Packages that wait for a person or for a node."""
    found = []
    waiting = [package for package in app.catalogue.all() if package.presence is Presence.WAITING]
    cancelled = await app.transfers.cancelled(waiting)
    if cancelled:
        one, many = "package isn't here: its transfer was", "packages aren't here: their transfers were"
        text = (
            f"{_plural(cancelled, one, many)} cancelled. Retry to fetch {'it' if cancelled == 1 else 'them'}."
        )
        found.append(Concern(kind="warn", text=text, address="/ui/transfers?state=cancelled"))
    if len(waiting) > cancelled:
        text = _plural(len(waiting) - cancelled, "package is", "packages are")
        text = f"{text} waiting for a reachable node that has a copy."
        found.append(Concern(kind="warn", text=text, address="/ui/packages?presence=waiting"))
    return found


def _peer_concerns(handler: BaseHandler) -> list[Concern]:
    """Registered nodes that do not answer, or are no source now."""
    app, found = handler.app, []
    for peer in app.peers.all():
        if peer.down:
            since = f" since {clock(peer.failing_since)}" if peer.failing_since else ""
            text = f"{peer.name} is down{since}: {peer.last_error}"
            found.append(Concern(kind="bad", text=text, address="/ui/network"))
        elif peer.failures and peer.state is PeerState.ACTIVE:
            since = f" since {clock(peer.failing_since)}" if peer.failing_since else ""
            text = f"{peer.name} does not answer{since}: {peer.last_error}"
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
        elif peer.set_aside_until(app.now()):
            text = f"{peer.name} is set aside as a source: {peer.last_strike}"
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
        elif peer.state is not PeerState.ACTIVE:
            text = f"The registration with {peer.name} is {peer.state}."
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
    return found


def _inner_concerns(handler: BaseHandler) -> list[Concern]:
    """What is odd about background tasks and records, and about the stages and clocks of other nodes."""
    app, found = handler.app, []
    for failing in {one.task: one for one in app.system.failing()}.values():
        text = f"The background task {failing.task} {WHAT_HAPPENED}: {failing.error}"
        found.append(Concern(kind="bad" if failing.persistent else "warn", text=text))
    if app.records.broken:
        one, many = "stored record breaks a rule and is", "stored records break a rule and are"
        text = f"{_plural(len(app.records.broken), one, many)} skipped. `ods fsck` lists what is wrong."
        found.append(Concern(kind="warn", text=text))
    if app.records.ahead:
        text = _plural(len(app.records.ahead), "stored record is", "stored records are")
        found.append(
            Concern(
                kind="warn",
                text=f"{text} more than an hour ahead of this node's clock, and other nodes don't take "
                "such records. Check the clock (NTP).",
            )
        )
    for peer in app.peers.all():
        if abs(peer.clock_offset_ms) > CLOCK_MS:
            side = "ahead of" if peer.clock_offset_ms > 0 else "behind"
            text = (
                f"The clock of {peer.name} is {abs(peer.clock_offset_ms) / 1000:,.0f} s {side} this node's. "
                "From 30 s on, nodes refuse each other's requests. Check both clocks (NTP)."
            )
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
    for node in app.holdings.nodes.values():
        if node.stage not in app.settings.node.stages:
            text = f'{node.name} has the stage "{node.stage}", which is not in node.stages of this node.'
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
    return found


async def connection_concerns(handler: BaseHandler) -> list[Concern]:
    """What needs attention of MDM servers, notifications, the directory and the certificate."""
    app, found = handler.app, []
    for server in await app.mdm.servers() if app.mdm is not None else ():
        if server["state"] in {"attention", "unreachable"}:
            text = f"{server['name']}: {server['reason']}"
            found.append(Concern(kind="bad", text=text, address=f"/ui/mdm/{server['id']}"))
    stuck = await app.watchdog.notice()
    if stuck is not None:
        text = _plural(
            stuck["count"], "package is stuck on its way here", "packages are stuck on their way here"
        )
        first = stuck["first"][0]
        text = f"{text}. {first['filename']}: {first['reason']}."
        found.append(Concern(kind="bad", text=text, address="/ui/packages?presence=waiting"))
    notice = await app.store.get("notices", CERTIFICATE)
    if notice is not None and "ends_at" in notice:
        ended = notice["ends_at"] <= app.now()
        day = (iso(notice["ends_at"]) or "")[:10]
        text = f"The TLS certificate of this node {'ended' if ended else 'ends'} on {day}. Replace it."
        found.append(Concern(kind="bad" if ended else "warn", text=text))
    for collection, state, one, many in _RECORDS:
        count = await app.store.count(collection, {"state": state})
        if count:
            found.append(Concern(kind="warn", text=_plural(count, one, many), address="/ui/mdm"))
    if _operates(handler):
        for each in await app.notifications.destinations.all():
            if each.state is DestinationState.SUSPENDED or each.failing_since:
                kind = "bad" if each.state is DestinationState.SUSPENDED else "warn"
                text = f"{each.name} takes no notifications: {each.last_error}"
                found.append(Concern(kind=kind, text=text, address=f"/ui/notifications/{each.id}"))
    for asked in app.directory.health() if app.directory is not None else ():
        if asked.healthy is False:
            text = f"The directory server {asked.url} is down: {asked.error}"
            found.append(Concern(kind="warn", text=text, address="/ui/directory"))
    return found


def _operates(handler: BaseHandler) -> bool:
    return handler.principal is not None and handler.principal.role >= Role.OPERATOR


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
