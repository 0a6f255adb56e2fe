"""Decides, after each listing of an MDM server, which packages are to be taken in. The bytes come by the job `pulling`.

The listing is the truth. Bytes that the MDM stores are wanted when their mark is not the one that was last taken. Who
is right when both sides have other bytes under one name? What is uploaded in the MDM while the server is connected is
an upload like any other, the newest, and replaces what is here. Two files that were already there when the server was
connected tell no age: neither side is touched, the conflict is shown, and the next upload on either side decides.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.errors import InvalidName
from appliance.domain.names import check_filename, package_id
from appliance.domain.package import Package
from appliance.service.catalogue import Catalogue
from appliance.store.ports import Doc, Enqueue, Operation, Store

from ..driver import CloudState, RemotePackage
from ..servers.server import Server
from .pulling import pull_job
from .remote import RowState, new_row, row_write, rows_of, write_rows

log = logging.getLogger(__name__)

_BATCH = 100


@dataclass(slots=True)
class IntakeSummary:
    """What one look at a server came to."""

    listed: int = 0
    wanted: int = 0  #: pulls that were queued now
    pending: int = 0  #: the MDM still works on them
    conflicts: int = 0
    failed: int = 0


@dataclass(slots=True, kw_only=True)
class _Look:
    """One look at a server."""

    server: Server
    names: re.Pattern[str]
    can_open: bool
    primed: bool  #: whether it was looked at before
    unsure: list[Package] = field(default_factory=list)  #: here; their hashes are needed to compare

    def left_out(self, package: RemotePackage) -> str:
        """Why the settings, the server or its name keep a package out; "" if nothing does."""
        if not self.server.config.intake.enabled:
            return "The settings take nothing in from this server."
        if not self.can_open:
            return "The server does not let its files be fetched; upload it to a node."
        try:
            check_filename(package.file_name)
        except InvalidName as exc:
            return exc.message
        return "" if self.names.search(package.file_name) else "The settings leave this name out."


class Intake:
    """Compares what an MDM server lists with what is here."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        ensure_hashes: Callable[[Package], Awaitable[bool]],
        now: Callable[[], int],
    ) -> None:
        """Make an intake.

        Args:
            store: Where rows and jobs are.
            catalogue: What is here.
            ensure_hashes: Has the further digests of a package computed, if they are not there yet.
            now: UTC milliseconds.
        """
        self._store = store
        self._catalogue = catalogue
        self._ensure_hashes = ensure_hashes
        self._now = now

    async def run(
        self, server: Server, remote: Sequence[RemotePackage], *, can_open: bool = True
    ) -> IntakeSummary:
        """Bring the rows of a server in line with a listing, and queue a pull for what is wanted.

        Args:
            server: The server.
            remote: All its package records.
            can_open: Whether the server lets its bytes be fetched now.
        """
        rows = await rows_of(self._store, server.id)
        look = _Look(
            server=server,
            names=re.compile(server.config.intake.names),
            can_open=can_open,
            primed=bool(server.health.get("listed")),
        )
        summary = IntakeSummary(listed=len(remote))
        changed: list[Doc] = []
        wanted: list[Doc] = []
        for package in remote:
            old = rows.pop(package.id, None)
            row = self._row(look, package, old)
            if row["state"] == RowState.WANTED and (old is None or old["state"] != RowState.WANTED):
                wanted.append(row)
            elif old is None or _changed(old, row):
                changed.append(row)
            summary.pending += row["state"] == RowState.PENDING
            summary.conflicts += row["state"] == RowState.CONFLICT
            summary.failed += row["state"] in {RowState.FAILED, RowState.QUARANTINED}
        summary.wanted = len(wanted)
        await write_rows(self._store, changed, list(rows.values()))
        await self._want(server, wanted)
        for here in look.unsure:
            await self._ensure_hashes(here)
        for row in changed:
            if row["state"] in {RowState.CONFLICT, RowState.FAILED}:
                log.warning(
                    row["error"],
                    extra={
                        "action": f"mdm_{row['state']}",
                        "mdm": server.id,
                        "package_name": row["file_name"],
                    },
                )
        return summary

    async def _want(self, server: Server, rows: Sequence[Doc]) -> None:
        """Note that these are wanted and queue their pulls, in one operation."""
        for start in range(0, len(rows), _BATCH):
            operations: list[Operation] = []
            for row in rows[start : start + _BATCH]:
                operations.append(row_write(row))
                operations.append(Enqueue(pull_job(server.id, row["remote"], self._now())))
            await self._store.batch(operations)

    def _row(self, look: _Look, package: RemotePackage, old: Doc | None) -> Doc:
        """The row of a record as it should be now."""
        row = dict(old) if old else new_row(look.server.id, package)
        if look.primed and old is None:
            row["first"] = ""  # an upload that happened while we looked
        if row["mark"] != package.mark or row["file_name"] != package.file_name:
            row.update(mark=package.mark, file_name=package.file_name)
            row.update(size=package.size, hashes=dict(package.hashes))
        state, error = self._judge(look, package, row)
        if state is RowState.TAKEN:
            row["taken"] = package.mark
        if (row["state"], row["error"]) != (str(state), error):
            row.update(state=str(state), error=error, at=self._now())
        return row

    def _judge(self, look: _Look, package: RemotePackage, row: Mapping[str, object]) -> tuple[RowState, str]:
        if package.state is CloudState.ERROR:
            where = look.server.config.name
            return (
                RowState.FAILED,
                f'The upload of "{package.file_name}" failed in {where}; upload it again there.',
            )
        if package.state is CloudState.NONE:
            return RowState.NO_BYTES, ""
        if not package.mark:
            return RowState.PENDING, ""
        if row["taken"] == package.mark:
            return RowState.TAKEN, ""
        left_out = look.left_out(package)
        if left_out:
            return RowState.SKIPPED, left_out
        found = self._compared(look, package, row)
        if found is not None:
            return found
        stuck = {str(RowState.QUARANTINED), str(RowState.FAILED)}
        if row["state"] in stuck and row.get("tried") == package.mark:
            return RowState(str(row["state"])), str(row["error"])
        return RowState.WANTED, ""

    def _compared(
        self, look: _Look, package: RemotePackage, row: Mapping[str, object]
    ) -> tuple[RowState, str] | None:
        """What follows from the package of this name here, None if its bytes are to be replaced or there is none."""
        here = self._catalogue.by_id(package_id(check_filename(package.file_name)))
        before = row["first"] == package.mark  # these bytes were there when the server was connected
        if here is None:
            return None
        if here.withdrawn:
            reason = "It was withdrawn here before the server was connected."
            return (RowState.SKIPPED, reason) if before else None
        if same_bytes(here, package):
            return RowState.TAKEN, ""
        if _unsure(here, package):
            look.unsure.append(here)
            return RowState.PENDING, "The hashes of the file here are being computed, to compare."
        if before:
            return RowState.CONFLICT, (
                f'"{package.file_name}" was here and in {look.server.config.name} with different bytes before the '
                "two were connected. Upload the right file again, here or there."
            )
        return None


def same_bytes(here: Package, package: RemotePackage) -> bool:
    """Whether a package here has the bytes that an MDM states, by any digest that both name."""
    if package.size is not None and package.size != here.body.size:
        return False
    known = {"sha256": here.body.sha256, **here.body.hashes}
    return any(known[kind] == digest.lower() for kind, digest in package.hashes.items() if kind in known)


def _unsure(here: Package, package: RemotePackage) -> bool:
    """Whether only further digests of the file here can tell if the bytes are the same."""
    known = {"sha256", *here.body.hashes}
    return (
        here.held_sha256 == here.body.sha256
        and package.size in {None, here.body.size}
        and not known.intersection(package.hashes)
    )


def _changed(old: Doc, row: Doc) -> bool:
    return any(old[name] != row[name] for name in ("mark", "file_name", "state", "error", "taken", "first"))
