"""Decides, after each listing of an MDM server, which packages are to be taken in. The bytes come by the job `pulling`.

The listing is the truth about what is there, and one listing is no truth about what is not. Bytes that the MDM
stores are wanted when their mark is not the one that was last taken. Who is right when both sides have other bytes
under one name?

- Bytes that were never here, seen while the server is connected, are an upload like any other: the newest. They
  replace what is here, if that does not change before they have come.
- Bytes of an earlier version (`versions`) are no news: an upload of ours that landed late, an old listing, a record
  that stayed behind. But if the MDM certainly had other bytes, or none, when the present version was here already, and
  no upload of ours can explain them, somebody put them there since, and is obeyed. That is looked at several times
  over half a minute and once more by the record's id. Many at once look like an MDM that was restored from a backup:
  they are shown and left alone.
- Two files that were already there when the server was connected tell no age, unless one is an earlier version of the
  other: neither side is touched, the conflict is shown, and the next upload on either side decides. The same holds
  for a record that we lost sight of.

Whatever is wanted has a job: each look queues those that are missing, since a job may end and the wish stay. What a
person cancelled is not wanted until the bytes change or the person retries.

A record that is not listed is forgotten when it was missed twice and the MDM says of its id that there is none.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.domain.errors import InvalidName
from appliance.domain.mdm_errors import MdmBusy, MdmError, MdmNeedsAttention, MdmUnreachable
from appliance.domain.names import check_filename, package_id
from appliance.domain.package import Package
from appliance.service.catalogue import Catalogue
from appliance.store.ports import Doc, Enqueue, Operation, Remove, Store

from ..digests import agree, known_hashes
from ..driver import CloudState, RemotePackage
from ..names import nfc
from ..servers.server import Server
from ..versions import (
    earlier,
    gone,
    is_expected,
    landed,
    noted,
    on_its_way,
    versions_of,
    versions_write,
)
from .pulling import pull_job, pull_key
from .remote import (
    STUCK,
    RowState,
    is_place,
    new_row,
    place_of,
    row_write,
    rows_of,
    same_mark,
    write_changes,
)

log = logging.getLogger(__name__)

MISSES = 2  #: listings that lack a record, before the MDM is asked for its id
HIDDEN_MS = 10 * 60_000  #: a record that is there and was not listed for so long says nothing of a listing
CERTAIN_MS = 55_000  #: what was seen for so long was there: a cluster agrees with itself once a minute
BACK_LOOKS = 3  #: looks that agree, before earlier bytes are taken
BACK_MS = 30_000  #: and the time between the first and the last of them
RESTORE_MS = 10 * 60_000  #: what goes back within this time after many did is one of them
MANY_BACK = 3  #: so many packages at once may go back; more look like a restore
ASKED_BY_ID = 20  #: records, at most, in one look
_UNKNOWN_AGE = "*"  #: `first` of a row until the MDM has settled
_BREATH = 500  #: rows between two turns of the event loop
_KEYS = 200  #: jobs that are looked for at once

Find = Callable[[str], Awaitable[RemotePackage | None]]


@dataclass(slots=True)
class IntakeSummary:
    """What one look at a server came to."""

    listed: int = 0
    wanted: int = 0  #: pulls that were queued now
    pending: int = 0  #: the MDM still works on them, or they are looked at again
    conflicts: int = 0
    failed: int = 0
    missing: int = 0  #: known records that were not listed, and may be there: it may lack others, too
    #: by id: records as they are by their own word, where the list was old
    corrected: dict[str, RemotePackage] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Look:
    """One look at a server."""

    server: Server
    names: re.Pattern[str]
    can_open: bool
    now: int
    primed: bool  #: whether it was looked at before
    last_id: int  #: the largest id that was ever listed: what has a larger one is new
    looked_at: int  #: when the look before this one began
    versions: dict[str, Doc]  #: by package id
    by_name: dict[str, Doc]  #: rows of records by file name
    unsure: list[Package] = field(default_factory=list)  #: here; their hashes are needed to compare
    changed_versions: dict[str, Doc] = field(default_factory=dict)

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
        return "" if self.names.search(nfc(package.file_name)) else "The settings leave this name out."

    def is_new(self, remote_id: str) -> bool:
        """Whether a record that has no row was created since the last look, as far as its id tells."""
        return not remote_id.isdecimal() or int(remote_id) > self.last_id

    def since(self, package: Package) -> int:
        """When what a package is now was first seen here."""
        return int(self.versions[package.id]["since"])

    def is_current(self, package: str, sha256: str) -> bool:
        """Whether a version is what a package is now."""
        return bool(self.versions[package]["versions"][0]["sha256"] == sha256)

    def expected(self, landing: tuple[str, str] | None) -> bool:
        """Whether a version in the MDM is an upload of ours that was on its way."""
        if landing is None:
            return False
        return is_expected(self.versions.get(landing[0]), landing[1], self.now)

    def landed(self, landing: tuple[str, str]) -> None:
        """Note that an upload of ours was seen in the MDM."""
        package, sha256 = landing
        if self.expected(landing):
            doc = landed(self.versions[package], sha256)
            self.versions[package] = self.changed_versions[package] = doc


@dataclass(frozen=True, slots=True)
class _Judged:
    """What follows for a row."""

    state: RowState
    error: str = ""
    settled: bool = True  #: this is what the MDM has now; else it is looked at again before that is believed
    taken: bool = False  #: there is nothing to take in of these bytes
    back: Doc | None = None  #: they are those of an earlier version; see `remote.new_row`
    landing: tuple[str, str] | None = None  #: the package and the SHA-256 of its version that the MDM has


@dataclass(slots=True)
class _Found:
    """A listed record, its row before and now, and which package's version arrived there."""

    package: RemotePackage
    old: Doc | None
    row: Doc
    landing: tuple[str, str] | None


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
        self, server: Server, remote: Sequence[RemotePackage], *, find: Find, can_open: bool = True
    ) -> IntakeSummary:
        """Bring the rows of a server in line with a listing, and queue a pull for what is wanted.

        Args:
            server: The server.
            remote: All its package records.
            find: Asks for one record by its id.
            can_open: Whether the server lets its bytes be fetched now.

        Raises:
            MdmError: The server cannot be called now. Nothing was changed.
        """
        await self._catalogue.load()
        rows = await rows_of(self._store, server.id)
        look = await self._look(server, rows, can_open=can_open)
        summary = IntakeSummary(listed=len(remote))
        found: list[_Found] = []
        for number, package in enumerate(remote, 1):
            old = rows.pop(package.id, None)
            row, landing = self._row(look, package, old)
            found.append(_Found(package, old, row, landing))
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        await self._ask_again(look, found, find, summary)
        await self._confirm(look, found, find)
        wanted = [each.row for each in found] + list(rows.values())
        pulled = await self._pulled(server.id, [row for row in wanted if row["state"] == RowState.WANTED])
        changes: list[list[Operation]] = []
        for each in found:
            old, row = each.old, each.row
            if each.landing is not None:
                look.landed(each.landing)
            same = old is not None and (old["state"], old["mark"]) == (RowState.WANTED, row["mark"])
            if row["state"] == RowState.WANTED and not (same and row["remote"] in pulled):
                summary.wanted += 1
                changes.append(self._queued(row))
            elif old is None or old != row:
                changes.append([row_write(row)])
            summary.pending += row["state"] == RowState.PENDING
            summary.conflicts += row["state"] == RowState.CONFLICT
            summary.failed += row["state"] in {RowState.FAILED, RowState.QUARANTINED}
            if (old is None or old["at"] != row["at"]) and row["state"] in {
                RowState.CONFLICT,
                RowState.FAILED,
            }:
                _warn(server, row)
        changes += await self._missed(look, rows, find, summary, pulled)
        changes += [
            [write]
            for id, doc in look.versions.items()
            if self._catalogue.by_id(id) is None and (write := gone(doc, look.now)) is not None
        ]
        await write_changes(
            self._store, [*([versions_write(doc)] for doc in look.changed_versions.values()), *changes]
        )
        for here in look.unsure:
            await self._ensure_hashes(here)
        return summary

    async def _pulled(self, server: str, rows: Sequence[Doc]) -> set[str]:
        """Those of the records that have an active job."""
        keys = [pull_key(server, row["remote"]) for row in rows]
        found: set[str] = set()
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            jobs = await self._store.find_jobs({"active_key": {"in": part}}, limit=len(part))
            found |= {str(job.args["remote"]) for job in jobs}
        return found

    def _queued(self, row: Doc) -> list[Operation]:
        """A row with its job."""
        return [row_write(row), Enqueue(pull_job(row["server"], row["remote"], self._now()))]

    async def _look(self, server: Server, rows: Mapping[str, Doc], *, can_open: bool) -> _Look:
        """What a look at a server has to know; versions that are new are noted."""
        ids = [int(id) for id in rows if id.isdecimal()]
        look = _Look(
            server=server,
            names=re.compile(nfc(server.config.intake.names)),
            can_open=can_open,
            now=self._now(),
            primed=bool(server.health.get("listed")),
            last_id=max([int(server.health.get("last_id", 0)), *ids]),
            looked_at=int(server.health.get("looked_at", 0)),
            versions=await versions_of(self._store, server.id),
            by_name={nfc(row["file_name"]): row for row in rows.values()},
        )
        for number, package in enumerate(self._catalogue.all(), 1):
            doc = noted(look.versions.get(package.id), server.id, package, look.now)
            if doc is not None:
                look.versions[package.id] = look.changed_versions[package.id] = doc
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return look

    def _row(
        self, look: _Look, package: RemotePackage, old: Doc | None
    ) -> tuple[Doc, tuple[str, str] | None]:
        """The row of a record as it should be now, and which package's version arrived there."""
        fresh = new_row(look.server.id, package)
        row = {**fresh, **old} if old else fresh
        if old is None:
            if look.primed and look.is_new(package.id):
                row["first"] = ""  # an upload that happened while we looked
            elif not package.mark and package.state in {CloudState.PENDING, CloudState.READY}:
                row["first"] = _UNKNOWN_AGE
        if row["first"] == _UNKNOWN_AGE and package.mark:
            row["first"] = package.mark
        row["misses"] = row["missed_at"] = 0
        past = self._past(look, package, old)
        judged = self._judge(look, package, row, past)
        if judged.settled and not same_mark(str(row.get("tried") or ""), package.mark):
            row["tried"], row["verdict"] = "", None
        if judged.settled:
            self._settle(look, package, row, past)
        elif row["settled"] is None:
            row["settled"] = past or {"mark": "", "at": -1}
        if judged.taken:
            row["taken"] = package.mark
        row["back"] = judged.back
        if judged.settled and judged.state not in {RowState.WANTED, RowState.FAILED}:
            row["over"], row["act"] = None, False
        if (row["state"], row["error"]) != (str(judged.state), judged.error):
            row.update(state=str(judged.state), error=judged.error, at=look.now)
        return row, judged.landing

    @staticmethod
    def _settle(look: _Look, package: RemotePackage, row: Doc, past: Doc | None) -> None:
        """Let a row say what the MDM has now."""
        row.update(settled=None, file_name=package.file_name)
        same = same_mark(row["mark"], package.mark)
        if not same or not row["mark_at"]:
            row.update(mark_at=look.now, before=past)
        if not same or package.size is not None:  # sizes that are known stay
            row.update(mark=package.mark, size=package.size, hashes=dict(package.hashes))

    @staticmethod
    def _past(look: _Look, package: RemotePackage, old: Doc | None) -> Doc | None:
        """What the MDM certainly had under this name before, and when that was last seen; None if nobody knows.

        What one list showed for a moment only is not certain: it may have been old.
        """
        row = old or look.by_name.get(nfc(package.file_name))
        if row is None:
            is_new = look.primed and look.is_new(package.id)
            return {"mark": "", "at": look.looked_at} if is_new else None
        certain: Doc | None = row.get("settled")
        sure = row.get("sure") is not None and same_mark(row["sure"], row["mark"])
        long = row.get("mark_at") and look.looked_at - row["mark_at"] >= CERTAIN_MS
        if certain is None and (sure or long):
            certain = {"mark": row["mark"], "at": look.looked_at}
        return certain or row.get("before")

    def _judge(self, look: _Look, package: RemotePackage, row: Doc, past: Doc | None) -> _Judged:
        if package.state is CloudState.ERROR:
            where = look.server.config.name
            return _Judged(
                RowState.FAILED,
                f'The upload of "{package.file_name}" failed in {where}; upload it again there.',
                settled=False,
            )
        if package.state is CloudState.NONE:
            return _Judged(RowState.NO_BYTES)
        if not package.mark:
            return _Judged(RowState.PENDING, settled=False)
        stayed = same_mark(row["mark"], package.mark)
        known = same_mark(row["taken"], package.mark)
        going_back = row["act"] and row["state"] in {RowState.WANTED, RowState.FAILED}
        if known and stayed and not going_back:
            return _Judged(RowState.TAKEN, taken=look.can_open)
        left_out = look.left_out(package)
        if left_out:
            if look.can_open and self._no_news(look, package, past):
                return _Judged(RowState.TAKEN, taken=True)
            return _Judged(RowState.SKIPPED, left_out, settled=look.can_open)
        here = self._catalogue.by_id(package_id(check_filename(package.file_name)))
        if here is not None:
            found = self._compared(look, package, row, past, here)
            if found is not None:
                return found
        given_up = _given_up(row, package)
        if given_up is not None:
            return given_up
        acted = here is not None and _acted(look, here, package, past)
        if here is not None and not acted:
            if known:
                return _Judged(RowState.TAKEN, taken=True)
            newer = row["mark_at"] and look.since(here) > row["mark_at"]
            if stayed and newer and row["brought"] != place_of(here):
                return self._changed_meanwhile(look, package, row)
        return _want(row, here, acted=acted)

    def _no_news(self, look: _Look, package: RemotePackage, past: Doc | None) -> bool:
        """Whether bytes that are not taken in anyway are those here, or older ones that came up by themselves."""
        try:
            here = self._catalogue.by_id(package_id(check_filename(package.file_name)))
        except InvalidName:
            return False
        if here is None or here.withdrawn:
            return False
        if agree(known_hashes(here), package.hashes):
            return package.size in {None, here.body.size}
        version = earlier(look.versions.get(here.id), here, package)
        return version is not None and (
            on_its_way(version, look.now) or not _acted(look, here, package, past)
        )

    def _compared(
        self, look: _Look, package: RemotePackage, row: Doc, past: Doc | None, here: Package
    ) -> _Judged | None:
        """What follows from the package of this name here, None if its bytes are to be replaced."""
        if not here.withdrawn and agree(known_hashes(here), package.hashes):
            if package.size not in {None, here.body.size}:
                reason = "The MDM states the hash of the file here, and another size; it is looked at again."
                return _Judged(RowState.PENDING, reason, settled=False)
            return _Judged(RowState.TAKEN, taken=True, landing=(here.id, here.body.sha256))
        if row["state"] in {RowState.WANTED, RowState.FAILED} and same_mark(row["mark"], package.mark):
            if row["over"] is None or is_place(row, here):
                wanted = row["state"] == RowState.WANTED or row["act"]
                if wanted and row.get("tried") != package.mark:
                    row["over"] = None if row["over"] is None else place_of(here)
                    return _Judged(RowState.WANTED)  # decided, and nothing changed since
            elif row["state"] == RowState.WANTED:
                return self._changed_meanwhile(look, package, row)
        if not here.withdrawn and _unsure(here, package):
            look.unsure.append(here)
            reason = "The hashes of the file here are being computed, to compare."
            return _Judged(RowState.PENDING, reason, settled=False)
        version = earlier(look.versions.get(here.id), here, package)
        if version is not None:
            return self._earlier(look, package, row, past, here, version)
        if not same_mark(row["first"], package.mark):
            return None
        if here.withdrawn:
            return _Judged(RowState.SKIPPED, "It was withdrawn here; an upload in the MDM brings it back.")
        return _Judged(
            RowState.CONFLICT,
            f'"{package.file_name}" has other bytes here than in {look.server.config.name}, and ODS can\'t tell which '
            "are newer. Upload the right file again, here or there.",
        )

    def _earlier(
        self,
        look: _Look,
        package: RemotePackage,
        row: Doc,
        past: Doc | None,
        here: Package,
        version: Doc,
    ) -> _Judged:
        """The MDM has bytes of an earlier version: ours, old, or put there by somebody since."""
        ours = on_its_way(version, look.now)
        if ours or not _acted(look, here, package, past):
            landing = (here.id, str(version["sha256"]))
            if here.withdrawn:
                reason = "It was withdrawn here; an upload in the MDM brings it back."
                return _Judged(RowState.SKIPPED, reason, landing=landing)
            return _Judged(RowState.TAKEN, taken=True, landing=landing)
        where = look.server.config.name
        old = row["back"] if row["back"] and row["back"]["mark"] == package.mark else None
        if old is not None and old["many"]:
            return _Judged(RowState.CONFLICT, _many_reason(where), settled=False, back=old)
        row["over"], row["act"] = place_of(here), True
        back = old or {"mark": package.mark, "since": look.now, "looks": 0, "many": False}
        reason = f"{where} went back to earlier bytes of this name. ODS looks again before it follows."
        back = {**back, "looks": back["looks"] + 1}
        return _Judged(RowState.PENDING, reason, settled=False, back=back)

    @staticmethod
    def _changed_meanwhile(look: _Look, package: RemotePackage, row: Doc) -> _Judged:
        """Bytes that were never here, and what is here changed since they were seen: a person decides."""
        row["first"] = package.mark
        return _Judged(
            RowState.CONFLICT,
            f'"{package.file_name}" in {look.server.config.name} was not fetched before the file here changed. Upload '
            "the right file again, here or there.",
        )

    @staticmethod
    async def _ask_again(look: _Look, found: Sequence[_Found], find: Find, summary: IntakeSummary) -> None:
        """Believe that a record has other bytes of ours now, or none any more, if it says so itself: a list may be old.

        An upload of ours is expected, and bytes that were never here are checked when they have come.
        """
        asked = 0
        for each in found:
            old, row = each.old, each.row
            known = row["state"] in {RowState.TAKEN, RowState.SKIPPED, RowState.NO_BYTES}
            if old is None or not known or same_mark(old["mark"], row["mark"]):
                continue
            if look.expected(each.landing):
                row["sure"] = row["mark"]
                continue
            asked += 1
            again = (await _by_id(find, look, row))[0] if asked <= ASKED_BY_ID else None
            if again is not None and same_mark(again.mark, each.package.mark):
                if each.landing is not None and look.is_current(*each.landing):
                    row["sure"] = row["mark"]
                continue
            each.row, each.landing = {**old, "misses": 0, "missed_at": 0}, None
            summary.pending += 1
            if again is not None:
                summary.corrected[again.id] = again

    async def _confirm(self, look: _Look, found: Sequence[_Found], find: Find) -> None:
        """Decide about bytes that went back: taken when they stayed, shown if there are many."""
        rows = [each.row for each in found if each.row.get("back")]
        going = [row for row in rows if row["state"] == RowState.PENDING]
        lately = [row for row in rows if row["back"]["many"] and look.now - row["back"]["since"] < RESTORE_MS]
        many = len(going) > MANY_BACK or bool(lately)
        for row in going:
            back = row["back"]
            if many:
                row["back"] = {**back, "many": True}
                _decide(row, RowState.CONFLICT, _many_reason(look.server.config.name), look.now)
            elif back["looks"] >= BACK_LOOKS and look.now - back["since"] >= BACK_MS:
                again, _ = await _by_id(find, look, row)
                if again is not None and again.mark == back["mark"]:
                    row.update(mark=again.mark, size=again.size, hashes=dict(again.hashes))
                    row.update(
                        back=None, settled=None, before=row["settled"], mark_at=look.now, sure=again.mark
                    )
                    _decide(row, RowState.WANTED, "", look.now)

    async def _missed(
        self,
        look: _Look,
        rows: Mapping[str, Doc],
        find: Find,
        summary: IntakeSummary,
        pulled: Container[str],
    ) -> list[list[Operation]]:
        """See to the rows of records that were not listed."""
        changes: list[list[Operation]] = []
        asked = 0
        for row in rows.values():
            misses = int(row.get("misses", 0)) + 1
            since = row.get("missed_at") or look.now
            if misses >= MISSES and asked < ASKED_BY_ID:
                asked += 1
                there, answered = await _by_id(find, look, row)
                if there is None and answered:
                    changes.append([Remove("mdm_remote", row["_id"])])
                    continue
            summary.missing += look.now - since < HIDDEN_MS
            missed = {**row, "misses": misses, "missed_at": since}
            if row["state"] == RowState.WANTED and row["remote"] not in pulled:
                summary.wanted += 1
                changes.append(self._queued(missed))
            elif misses <= MISSES:
                changes.append([row_write(missed)])
        if summary.missing:
            log.warning(
                "a listing lacks records that are known",
                extra={"action": "mdm_listing_lacks", "mdm": look.server.id, "missing": summary.missing},
            )
        return changes


async def _by_id(find: Find, look: _Look, row: Doc) -> tuple[RemotePackage | None, bool]:
    """The record of a row, asked for by its id, and whether the MDM answered.

    One record that the MDM cannot show keeps no other from being looked at: then the row stays as it is.
    """
    try:
        return await find(row["remote"]), True
    except (MdmBusy, MdmNeedsAttention, MdmUnreachable):
        raise
    except MdmError as exc:
        log.warning(
            exc.message,
            extra={"action": "mdm_record_odd", "mdm": look.server.id, "package_name": row["file_name"]},
        )
        return None, False


def _want(row: Doc, here: Package | None, *, acted: bool) -> _Judged:
    """Want a row's bytes in the place of what is here."""
    if row["state"] not in {RowState.WANTED, RowState.PENDING}:  # else a pull may be about to publish it
        row["brought"] = ""
    row["over"], row["act"] = place_of(here), acted
    return _Judged(RowState.WANTED)


def _given_up(row: Doc, package: RemotePackage) -> _Judged | None:
    """What was found of bytes that are not fetched again, also after the MDM worked on them for a while."""
    if not row.get("tried") or row["tried"] != package.mark:
        return None
    found = row.get("verdict") or row
    return _Judged(RowState(found["state"]), str(found["error"])) if found["state"] in STUCK else None


def _acted(look: _Look, here: Package, package: RemotePackage, past: Doc | None) -> bool:
    """Whether bytes came up in the MDM after what is here: it had others, or none, when this was here already."""
    return past is not None and not same_mark(past["mark"], package.mark) and look.since(here) <= past["at"]


def _many_reason(server: str) -> str:
    return (
        f"{server} went back to earlier bytes of many packages at once, as after a restore from a backup. ODS left "
        "both sides as they are. Upload the right file again, here or there."
    )


def _decide(row: Doc, state: RowState, error: str, now: int) -> None:
    if (row["state"], row["error"]) != (str(state), error):
        row.update(state=str(state), error=error, at=now)


def _unsure(here: Package, package: RemotePackage) -> bool:
    """Whether only further digests of the file here can tell if the bytes are the same."""
    known = {"sha256", *here.body.hashes}
    return (
        here.held_sha256 == here.body.sha256
        and package.size in {None, here.body.size}
        and not known.intersection(package.hashes)
    )


def _warn(server: Server, row: Doc) -> None:
    log.warning(
        row["error"],
        extra={"action": f"mdm_{row['state']}", "mdm": server.id, "package_name": row["file_name"]},
    )
