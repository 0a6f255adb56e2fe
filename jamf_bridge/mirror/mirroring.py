"""Keeps a package record in an MDM for every package of the stages that are mirrored.

One run reads the links of the server once and goes through the catalogue in memory; what is up to date costs no
request and no write. A package that leaves the mirrored stages keeps its record as it is; only a withdrawal touches
it. A record that somebody deleted in the MDM is made again as long as its package is to be mirrored.

What a listing lacks is not gone: nothing is created or given up because of one listing. A record that is known is
missed in two listings that can be believed and then asked for by its id; a name that is new is looked up before it
is used.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence

from appliance.domain.package import Package
from appliance.service.catalogue import Catalogue
from appliance.service.digests import Digests, complete
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Operation, Store

from ..driver import Driver, RemotePackage
from ..intake.remote import write_changes
from ..servers.server import Server
from .cloud_records import CloudRecords
from .limited_calls import call_all
from .links import LinkState, changed, link_write, links_of, new_link
from .listing import Listing
from .package_facts import templates_mark
from .plan import Likeness, Step, backing_off, likeness, plan
from .record_writing import RecordWriting, withdrawn
from .summary import MirrorSummary
from .upload_plan import not_given_up

__all__ = ["Mirror", "MirrorSummary"]

MISSES = 2  #: listings that lack a record, before it is asked for by its id
AT_ONCE = 4  #: calls of the driver; Jamf Pro asks for at most five connections
_BREATH = 500  #: packages between two turns of the event loop


class Mirror:
    """Mirrors packages out to MDM servers."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        digests: Digests,
        blobs: BlobStore,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._digests = digests
        self._blobs = blobs
        self._now = now

    async def run(
        self,
        server: Server,
        driver: Driver,
        remote: Sequence[RemotePackage],
        *,
        verify: bool = False,
        whole: bool = True,
    ) -> MirrorSummary:
        """Bring the package records of a server into line with the catalogue.

        Args:
            server: The server.
            driver: Its driver.
            remote: All its package records, as they were just listed.
            verify: Ask the MDM about every record, even if nothing seems to have changed.
            whole: Whether the listing can be believed about what it lacks: it has all records that were known before.

        Raises:
            MdmError: The server cannot be called now. What was done is noted; the next run goes on.
        """
        cloud = CloudRecords(
            store=self._store,
            server=server,
            blobs=self._blobs,
            uploads=server.config.mirror.upload and (await driver.capabilities()).upload_package,
            now=self._now,
        )
        run = _Run(
            self._store, self._catalogue, self._digests, cloud, server, driver, self._now, verify=verify
        )
        links, listing = await links_of(self._store, server.id), Listing(remote)
        run.stored = links
        for number, package in enumerate(self._catalogue.all(), 1):
            link = links.get(package.id)
            record = listing.record(package.body.filename, link["remote_id"] if link else "")
            mirrored = package.withdrawn or package.body.stage in server.config.mirror.stages
            if not mirrored or (package.withdrawn and (link is None or link["state"] == LinkState.WITHDRAWN)):
                continue
            if link is not None:
                link = run.counted(link, listing)
                if run.too_early(link, whole=whole):
                    continue
            if record is None and not whole and not (link and link["remote_id"]) and not package.withdrawn:
                run.wait(package, link)
                continue
            if package.withdrawn and link is not None:
                run.withdraw(package, link)
            else:
                await run.mirror(package, link, record)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        await write_changes(self._store, run.changes)
        await call_all(run.calls, at_once=AT_ONCE)
        return run.summary


class _Run:
    """One run over one server: what changes without a call, and the calls to be made."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        digests: Digests,
        cloud: CloudRecords,
        server: Server,
        driver: Driver,
        now: Callable[[], int],
        *,
        verify: bool,
    ) -> None:
        self.summary = MirrorSummary()
        self.changes: list[list[Operation]] = []
        self.calls: list[Callable[[], Awaitable[None]]] = []
        self.stored: Mapping[str, Doc] = {}  #: links by package id, as they were read
        self._digests = digests
        self._cloud = cloud
        self._server = server
        self._now = now
        self._verify = verify
        self._templates = templates_mark(server.config.mirror)
        self._writing = RecordWriting(
            store=store, server=server, driver=driver, current=catalogue.by_id, now=now, summary=self.summary
        )

    def counted(self, link: Doc, listing: Listing) -> Doc:
        """A link with the number of listings that lacked its record."""
        misses = min(link.get("misses", 0) + 1, MISSES) if listing.lacks(link["remote_id"]) else 0
        return link if misses == link.get("misses", 0) else {**link, "misses": misses}

    def too_early(self, link: Doc, *, whole: bool) -> bool:
        """Whether a record that is known is not listed, and that cannot be believed yet: then it stays as it is."""
        if not link.get("misses", 0) or (whole and link["misses"] >= MISSES):
            return False
        self.summary.waiting += 1
        self.summary.missing += 1
        if whole:
            self.changes.append([link_write(link)])
        return True

    def wait(self, package: Package, link: Doc | None) -> None:
        """A name that is new waits for a listing that can be believed."""
        self.summary.waiting += 1
        self.summary.missing += 1
        reason = f"The list of {self._server.config.name} lacks records. It is read again first."
        if link is None:
            link = new_link(self._server.id, package)
            self._note(changed(link, self._now(), state=LinkState.WAITING, error=reason))

    def withdraw(self, package: Package, link: Doc) -> None:
        """See to the record of a withdrawn package that was mirrored."""
        if self._writing.left(link):
            self._note(withdrawn(link, self._now()))
        elif backing_off(package, link, self._templates, self._now()) and not self._verify:
            self.summary.failed += 1
            self._note(link)
        else:
            self.calls.append(functools.partial(self._writing.withdraw, package, link))

    async def mirror(self, package: Package, link: Doc | None, remote: RemotePackage | None) -> None:
        """Decide about a package that is to be mirrored, and note what is to be done."""
        if link is not None and self._verify:
            link = not_given_up(link)
        found = plan(
            package,
            link,
            remote,
            templates=self._templates,
            digested=complete(package),
            now=self._now(),
            verify=self._verify,
        )
        known = link or new_link(self._server.id, package)
        match found.step:
            case Step.ENSURE:
                self.calls.append(functools.partial(self._writing.ensure, package, link, remote))
            case Step.BACK_OFF:
                self.summary.conflicts += known["state"] == LinkState.CONFLICT
                self.summary.failed += known["state"] == LinkState.FAILED
                self._note(known)
            case Step.SETTLED if remote is not None:
                self.summary.unchanged += 1
                self._note(self._cloud.settled(package, known, remote, self._templates))
            case Step.COMPARE_AGE if remote is not None:
                after, more = await self._cloud.differs(package, known, remote)
                self.summary.conflicts += after["state"] == LinkState.CONFLICT
                self.summary.waiting += after["state"] != LinkState.CONFLICT
                self._note(after, *more)
            case Step.NOTHING:
                self.summary.unchanged += 1
                after, more = await self._cloud.upload(package, self._agreed(package, known, remote), remote)
                self._note(after, *more)
            case _:
                if found.step is Step.HASH:
                    await self._digests.ensure(package)
                self.summary.waiting += 1
                waiting = changed(known, self._now(), state=LinkState.WAITING, error=found.reason)
                after, more = await self._cloud.upload(package, waiting, remote) if link else (waiting, [])
                self._note(after, *more)

    @staticmethod
    def _agreed(package: Package, link: Doc, remote: RemotePackage | None) -> Doc:
        """Forget a difference that is gone, so that it is noticed when it comes again."""
        if not link["difference"] or remote is None or likeness(package, remote) is Likeness.DIFFERENT:
            return link
        return {**link, "difference": ""}

    def _note(self, after: Doc, *more: Operation) -> None:
        """Have a link written if it is not what is stored."""
        if more or after != self.stored.get(after["package"]):
            self.changes.append([link_write(after), *more])
