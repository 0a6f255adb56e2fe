"""The first page: is all well, and if not, what is to be done?"""

from appliance.api.views import iso
from appliance.domain.states import TransferState

from .attention import concerns, connection_concerns
from .charts import throughput_chart
from .pages import PageHandler
from .wording import event_view

_SHOWN = 8
_READ = 60  #: events; who signs in and out is in the audit log
_MOVING = (TransferState.FETCHING, TransferState.VERIFYING, TransferState.PENDING, TransferState.STALLED)


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
            concerns=[*await concerns(self, report, readiness), *await connection_concerns(self)],
            nodes=len(app.holdings.nodes),
            moving=moving,
            rates=app.throughput.rates(),
            chart=throughput_chart(app.throughput.steps()),
            events=[event_view(event, app) for event in events[:_SHOWN]],
            alone=not app.peers.all(),
            started=iso(app.now() - round(report.uptime_s * 1000)),
        )
