"""Keeps a package record in an MDM for every package of the stages that are mirrored.

One run reads the links of the server once and goes through the catalogue in memory; what is up to date costs no
request and no write. A package that leaves the mirrored stages keeps its record as it is; only a withdrawal touches it.
A record that somebody deleted in the MDM is made again as long as its package is to be mirrored.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence

from appliance.domain.package import Package
from appliance.service.catalogue import Catalogue
from appliance.service.digests import Digests, complete
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Operation, Store

from ..driver import Driver, RemotePackage
from ..servers.server import Server
from .cloud_records import CloudRecords
from .limited_calls import call_all
from .links import LinkState, changed, link_write, links_of, new_link, write_changes
from .listing import Listing
from .package_facts import templates_mark
from .plan import Likeness, Step, backing_off, likeness, plan
from .record_writing import RecordWriting, withdrawn
from .summary import MirrorSummary
from .upload_plan import not_given_up

__all__ = ["Mirror", "MirrorSummary"]

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
        self, server: Server, driver: Driver, remote: Sequence[RemotePackage], *, verify: bool = False
    ) -> MirrorSummary:
        """Bring the package records of a server into line with the catalogue.

        Args:
            server: The server.
            driver: Its driver.
            remote: All its package records, as they were just listed.
            verify: Ask the MDM about every record, even if nothing seems to have changed.

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
        run = _Run(self._store, self._digests, cloud, server, driver, self._now, verify=verify)
        links, listing = await links_of(self._store, server.id), Listing(remote)
        for number, package in enumerate(self._catalogue.all(), 1):
            link = links.get(package.id)
            record = listing.record(package.body.filename, link["remote_id"] if link else "")
            if package.withdrawn:
                run.withdraw(package, link, record)
            elif package.body.stage in server.config.mirror.stages:
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
        self._digests = digests
        self._cloud = cloud
        self._server = server
        self._now = now
        self._verify = verify
        self._templates = templates_mark(server.config.mirror)
        self._writing = RecordWriting(
            store=store, server=server, driver=driver, now=now, summary=self.summary
        )

    def withdraw(self, package: Package, link: Doc | None, remote: RemotePackage | None) -> None:
        """See to the record of a withdrawn package, if it was mirrored."""
        if link is None or link["state"] == LinkState.WITHDRAWN:
            return
        if remote is None or self._writing.left(package, link, remote):
            self._note(link, withdrawn(link, self._now()))
        elif backing_off(package, link, self._templates, self._now()) and not self._verify:
            self.summary.failed += 1
        else:
            self.calls.append(functools.partial(self._writing.withdraw, package, link, remote))

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
            case Step.SETTLED if remote is not None:
                self.summary.unchanged += 1
                self._note(known, self._cloud.settled(package, known, remote, self._templates))
            case Step.COMPARE_AGE if remote is not None:
                after, more = await self._cloud.differs(package, known, remote)
                self.summary.conflicts += after["state"] == LinkState.CONFLICT
                self.summary.waiting += after["state"] != LinkState.CONFLICT
                self._note(known, after, *more)
            case Step.NOTHING:
                self.summary.unchanged += 1
                after, more = await self._cloud.upload(package, self._agreed(package, known, remote), remote)
                self._note(known, after, *more)
            case _:
                if found.step is Step.HASH:
                    await self._digests.ensure(package)
                self.summary.waiting += 1
                waiting = changed(known, self._now(), state=LinkState.WAITING, error=found.reason)
                after, more = await self._cloud.upload(package, waiting, remote) if link else (waiting, [])
                self._note(known, after, *more)

    @staticmethod
    def _agreed(package: Package, link: Doc, remote: RemotePackage | None) -> Doc:
        """Forget a difference that is gone, so that it is noticed when it comes again."""
        if not link["difference"] or remote is None or likeness(package, remote) is Likeness.DIFFERENT:
            return link
        return {**link, "difference": ""}

    def _note(self, before: Doc, after: Doc, *more: Operation) -> None:
        """Have a link written if it changed."""
        if more or after != before or "_rev" not in before:
            self.changes.append([link_write(after), *more])
