"""Writes package records of one MDM server, one at a time: the intent first, then the call, then what became of it."""

import logging
from collections.abc import Callable
from typing import Any

from appliance.domain.errors import ApplianceError, InvalidInput, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.mdm_errors import MdmRefused
from appliance.domain.package import Package
from appliance.service.journal import SYSTEM, entry
from appliance.store.ports import Doc, Insert, Store

from ..driver import Driver, Mirrored, RemotePackage
from ..intake.remote import same_mark
from ..names import nfc
from ..servers.server import Server
from .links import LinkState, UploadState, finish_link, new_link, write_link
from .package_facts import package_facts, templates_mark
from .plan import IN_CLOUD, LONGEST_WAIT_MS, Likeness, difference, likeness, ownership, tried
from .summary import MirrorSummary

log = logging.getLogger(__name__)

FIRST_WAIT_MS = 60_000  #: after a refusal; doubled after each further one
_NO_RECORD = {"remote_id": "", "ours": False, "sent": {}, "misses": 0}  #: the MDM has none any more


class RecordWriting:
    """One run over one server."""

    def __init__(
        self,
        *,
        store: Store,
        server: Server,
        driver: Driver,
        current: Callable[[str], Package | None],
        now: Callable[[], int],
        summary: MirrorSummary,
    ) -> None:
        self._current = current
        self._store = store
        self._server = server
        self._driver = driver
        self._now = now
        self._summary = summary
        self._templates = templates_mark(server.config.mirror)

    async def ensure(self, package: Package, link: Doc | None, remote: RemotePackage | None) -> None:
        """Create a package's record, or bring it up to date.

        Args:
            package: The package.
            link: What was mirrored of it before.
            remote: Its record as it was listed, if there is one.

        Raises:
            MdmError: The server cannot be called now; a refusal of this one record is written into the link instead.
        """
        link = link or new_link(self._server.id, package)
        begun_before = link["absent"]
        shown = link["error"] if link["state"] == LinkState.CONFLICT else ""
        ours = remote is not None and ownership(package, link, remote)
        known = remote is None or link["remote_id"] == remote.id
        try:
            facts = package_facts(package, self._server.config.mirror)
            if remote is None:
                intent = {"state": str(LinkState.CREATING), "absent": True, "error": "", "at": self._now()}
                link = await write_link(self._store, {**link, **intent})
            result = await self._driver.ensure_package_record(
                facts,
                remote=remote,
                known_id=link["remote_id"],
                sent=link["sent"] if known else {},
            )
        except (MdmRefused, InvalidInput) as exc:
            # An earlier try, whose answer was lost, may have created it all the same: that stays known.
            await self._refused(package, {**link, "absent": begun_before}, exc)
            return
        except StaleRevision:
            self._summary.waiting += 1  # somebody else is at this package
            return
        if remote is None:
            # Found only when it was looked for again, and left as it is: the one that an earlier try created.
            found_again = begun_before and not result.changed and not result.conflict
            same = link["remote_id"] == result.remote_id and link["ours"]
            ours = result.created or found_again or same
        events = []
        if result.conflict and result.conflict != shown:
            events.append(self._event(EventType.MDM_RECORD_CONFLICT, package, reason=result.conflict))
        if result.changed:
            data = {"remote": result.remote_id, "created": result.created}
            events.append(self._event(EventType.MDM_RECORD_WRITTEN, package, **data))
        values = self._outcome(package, remote, result)
        await finish_link(self._store, {**link, **values, "ours": ours}, *events)

    def _outcome(self, package: Package, remote: RemotePackage | None, result: Mirrored) -> dict[str, Any]:
        """What a link says after a call."""
        values: dict[str, Any] = {
            "file_name": package.body.filename,
            "remote_id": result.remote_id,
            "absent": False,
            "misses": 0,
            "sent": dict(result.sent),
            "error": result.conflict,
            "difference": _mended(package, remote),
            "attempts": 0,
            "retry_at": 0,
            "tried": "",
            "at": self._now(),
        }
        if result.conflict:
            values |= {"state": str(LinkState.CONFLICT), "tried": tried(package, self._templates)}
            values["retry_at"] = self._now() + FIRST_WAIT_MS * 15
            self._summary.conflicts += 1
        elif result.pending:
            values |= {"state": str(LinkState.WAITING), "error": "The MDM still works on it."}
            self._summary.waiting += 1
        else:
            values |= {
                "state": str(LinkState.MIRRORED),
                "revision": package.revision,
                "written_at": package.at,
                "sha256": package.body.sha256,
                "templates": self._templates,
            }
            self._summary.written += result.changed
            self._summary.unchanged += not result.changed
        return values

    async def _refused(self, package: Package, link: Doc, error: ApplianceError) -> None:
        """The MDM, or a template, does not take this package: it is left until it changes or a while has passed."""
        mark, now = tried(package, self._templates), self._now()
        attempts = link["attempts"] + 1 if link["tried"] == mark else 1
        wait = min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** min(attempts - 1, 20))
        values = {
            "state": str(LinkState.FAILED),
            "error": error.message,
            "attempts": attempts,
            "retry_at": now + wait,
            "tried": mark,
            "at": now,
        }
        self._summary.failed += 1
        log.warning(
            error.message,
            extra={"action": "mdm_record_failed", "mdm": self._server.id, "package": package.id},
        )
        await finish_link(self._store, {**link, **values})

    def left(self, link: Doc) -> bool:
        """Whether the record of a withdrawn package is left as it is: by the settings, or since it is not ours."""
        return self._server.config.mirror.withdrawal == "leave" or not link["ours"] or not link["remote_id"]

    async def withdraw(self, package: Package, link: Doc) -> None:
        """Mark or delete the record of a withdrawn package, once, after it was read by its id.

        Bytes that somebody else uploaded to our record would be deleted with it: then it is left.

        Raises:
            MdmError: As for `ensure`.
        """
        policy = self._server.config.mirror.withdrawal
        try:
            remote = await self._driver.find_package(link["remote_id"])
            if remote is None:
                await finish_link(self._store, {**withdrawn(link, self._now()), **_NO_RECORD})
                return
            if not _still_ours(package, link, remote, policy):
                await finish_link(self._store, withdrawn(link, self._now()))
                return
            current = self._current(package.id)
            if current is None or not current.withdrawn:
                return  # it was published again meanwhile
            result = await self._driver.withdraw_package_record(remote.id, policy=policy, sent=link["sent"])
        except MdmRefused as exc:
            await self._refused(package, link, exc)
            return
        events = []
        if result.changed:
            self._summary.written += 1
            events.append(
                self._event(EventType.MDM_RECORD_WRITTEN, package, remote=remote.id, withdrawn=policy)
            )
        rest = _NO_RECORD if policy == "delete" else {}
        await finish_link(self._store, {**withdrawn(link, self._now()), **rest}, *events)

    def _event(self, type: EventType, package: Package, **data: Any) -> Insert:
        return entry(
            type,
            at=self._now(),
            actor=SYSTEM,
            subject=package.id,
            filename=package.body.filename,
            server=self._server.config.name,
            **data,
        )


def _still_ours(package: Package, link: Doc, remote: RemotePackage, policy: str) -> bool:
    """Whether a record of ours that was just read is what we made: no other file's, and without anybody's bytes."""
    if nfc(remote.file_name) != package.body.filename:
        return False
    if policy != "delete" or remote.state not in IN_CLOUD:
        return True
    upload = link["upload"] or {}
    sent = upload.get("state") == UploadState.DONE and same_mark(upload["mark"], remote.mark)
    return bool(sent)


def _mended(package: Package, remote: RemotePackage | None) -> str:
    """Which difference was written over; should the MDM keep it, it is not written again and again."""
    different = remote is not None and likeness(package, remote) is Likeness.DIFFERENT
    return difference(package, remote) if different and remote is not None else ""


def withdrawn(link: Doc, now: int) -> Doc:
    """The link of a withdrawn package whose record was seen to."""
    done = {"state": str(LinkState.WITHDRAWN), "absent": False, "error": "", "attempts": 0, "retry_at": 0}
    return {**link, **done, "tried": "", "at": now}
