"""The first page: is all well, and if not, what is to be done?"""

from dataclasses import dataclass

from appliance.api.base import BaseHandler
from appliance.api.views import iso
from appliance.domain.package import Presence
from appliance.domain.states import PeerState, TransferState
from appliance.service.system import Readiness, SystemReport

from .charts import throughput_chart
from .pages import PageHandler
from .wording import event_view

_SHOWN = 8
_READ = 60  #: events; who signs in and out is in the audit log
_MOVING = (TransferState.FETCHING, TransferState.VERIFYING, TransferState.PENDING, TransferState.STALLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that a person should look at."""

    kind: str  #: "bad" or "warn"
    text: str
    address: str = ""  #: where it can be mended


class OverviewHandler(PageHandler):
    """`/ui/`."""

    title = "Overview"
    section = "/ui/"

    async def get(self) -> None:
        """The state of this node and its network."""
        app = self.app
        report, readiness = await app.system.report(), await app.system.ready()
        moving = await app.transfers.page({"state": {"in": [str(state) for state in _MOVING]}}, limit=_SHOWN)
        events = [
            event for event in await app.events.page(limit=_READ) if not event.type.startswith("session.")
        ]
        self.page(
            "overview.html",
            report=report,
            concerns=concerns(self, report, readiness),
            nodes=len(app.holdings.nodes),
            moving=moving,
            rates=app.throughput.rates(),
            chart=throughput_chart(app.throughput.steps()),
            events=[event_view(event, app) for event in events[:_SHOWN]],
            alone=not app.peers.all(),
            started=iso(app.now() - round(report.uptime_s * 1000)),
        )


def concerns(handler: BaseHandler, report: SystemReport, readiness: Readiness) -> list[Concern]:
    """What needs attention, the worst first."""
    app, found = handler.app, []
    for check in readiness.checks.values():
        if not check.ok:
            found.append(Concern(kind="bad", text=check.reason))
    counts = dict.fromkeys(Presence, 0)
    for package in app.catalogue.all():
        counts[package.presence] += 1
    if counts[Presence.DAMAGED]:
        text = _plural(
            counts[Presence.DAMAGED], "package is damaged here and is", "packages are damaged here and are"
        )
        found.append(
            Concern(kind="bad", text=f"{text} fetched again.", address="/ui/packages?presence=damaged")
        )
    if report.counts.get("transfers_failed"):
        text = _plural(report.counts["transfers_failed"] or 0, "transfer gave up.", "transfers gave up.")
        found.append(Concern(kind="bad", text=text, address="/ui/transfers?state=failed"))
    for peer in app.peers.all():
        if peer.down:
            text = f"{peer.name} is down: {peer.last_error}"
            found.append(Concern(kind="bad", text=text, address="/ui/network"))
        elif peer.quarantined_until > app.now():
            text = f"{peer.name} is set aside as a source: {peer.last_strike}"
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
        elif peer.state is not PeerState.ACTIVE:
            text = f"The registration with {peer.name} is {peer.state}."
            found.append(Concern(kind="warn", text=text, address="/ui/network"))
    if counts[Presence.WAITING]:
        text = _plural(counts[Presence.WAITING], "package waits", "packages wait")
        found.append(
            Concern(
                kind="warn", text=f"{text} for a node that holds it.", address="/ui/packages?presence=waiting"
            )
        )
    if report.counts.get("jobs_failed"):
        text = _plural(report.counts["jobs_failed"] or 0, "job gave up.", "jobs gave up.")
        found.append(Concern(kind="warn", text=text, address="/ui/jobs?state=failed"))
    disk = report.disk
    if disk.free < max(disk.floor * 2, disk.total // 20):
        found.append(Concern(kind="warn", text="The disk is nearly full: new packages may find no room."))
    return found


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
