"""The peer API, `/peer/v1`: what registered nodes ask of each other."""

import asyncio
import functools
import json
import os
from dataclasses import asdict
from typing import Any

import tornado.iostream
import tornado.web

from appliance import __version__
from appliance.domain.chunkmap import ChunkMap
from appliance.domain.errors import (
    Conflict,
    InvalidInput,
    PackageArriving,
    PackageUnknown,
    PackageWithdrawn,
    PermissionDenied,
    TooLarge,
)
from appliance.domain.manifest import chunk_count
from appliance.domain.package import Package, Presence
from appliance.domain.record import MAX_NUMBER, RecordKind
from appliance.peering.records import record_json
from appliance.peering.wire import (
    PAGE_LIMIT,
    SIGHTS_LIMIT,
    Announcement,
    BucketsQuery,
    Complaint,
    RecordsQuery,
    Registration,
    buckets_json,
    digest_json,
    manifest_json,
    parse,
)
from appliance.service.held_file import open_held
from appliance.service.records import ChangesPage
from appliance.service.registration import registering_key

from .peer_base import MAX_BODY, MAX_REGISTRATION, PeerHandler
from .ranges import Unsatisfiable, parse_range
from .sendfile import FileFailed, send_file

MAX_WAIT_S = 30.0


def _json(body: bytes, limit: int = MAX_BODY) -> Any:
    if len(body) > limit:
        raise TooLarge(f"This message has at most {limit} bytes.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput("The body is not valid JSON.") from exc


class NodeHandler(PeerHandler):
    """`GET node`: who this node is."""

    async def get(self) -> None:
        """Answer."""
        record = await self.app.replication.own_record()
        self.write_json(
            {
                "id": self.app.identity.node_id,
                "version": __version__,
                "time": self.app.now(),
                "record": record_json(record),
            }
        )


class RegistrationsHandler(PeerHandler):
    """`POST registrations`: join with an invite. The key is in the signed record that the body carries."""

    async def prepare(self) -> None:
        """Refuse who tries too many invites before looking at the body."""
        self.app.registrations.check_source(self.request.remote_ip or "")
        await super().prepare()

    async def post(self) -> None:
        """Register."""
        answer = await self.app.registrations.accept(self._message, self.peer, self.request.remote_ip or "")
        self.write_json(answer.model_dump(), 201)

    def key_for(self, node: str) -> bytes | None:
        """The key that the body claims, if it is the signer's."""
        self._message = parse(Registration, _json(self.request.body, MAX_REGISTRATION))
        claimed, key = registering_key(self._message)
        return key if claimed == node else None


class RegistrationHandler(PeerHandler):
    """`DELETE registrations/{id}`: leave."""

    async def delete(self, id: str) -> None:
        """Forget the caller."""
        if id != self.peer:
            raise PermissionDenied("A node can only end its own registration.")
        await self.app.registrations.left(id)
        self.set_status(204)
        self.finish()


class ActivePeerHandler(PeerHandler):
    """For peers whose registration is complete."""

    async def prepare(self) -> None:
        """Refuse the others."""
        await super().prepare()
        if not self.app.peers.is_active(self.peer):
            raise PermissionDenied("The registration is not complete.")


class AnnouncementsHandler(ActivePeerHandler):
    """`POST announcements`: the caller's feed grew."""

    async def post(self) -> None:
        """Read it soon."""
        message = parse(Announcement, _json(self.request.body))
        if message.node is not None:
            await self.app.replication.greeted(self.peer, message.node)
        if message.compare:
            await self.app.anti_entropy.wished(self.peer)
        self.app.replication.announced(self.peer)
        self.set_status(202)
        self.finish()


class ChangesHandler(ActivePeerHandler):
    """`GET changes?since=N&feed=F&wait=S`: this node's change feed, long-polled."""

    async def get(self) -> None:
        """A page."""
        try:
            since = int(self.get_query_argument("since", "0"))
            wait = float(self.get_query_argument("wait", "0"))
            limit = int(self.get_query_argument("limit", str(PAGE_LIMIT)))
        except ValueError as exc:
            raise InvalidInput("since, wait and limit are numbers.") from exc
        if not 0 <= since <= MAX_NUMBER or not 0 <= wait <= MAX_WAIT_S or not 1 <= limit <= PAGE_LIMIT:
            raise InvalidInput(
                f"since is 0 to {MAX_NUMBER}, wait at most {MAX_WAIT_S:g} s, limit 1 to {PAGE_LIMIT}."
            )
        page = await self._page(since, self.get_query_argument("feed", ""), limit, wait)
        self.write_json(
            {
                "feed": page.feed,
                "next": page.next,
                "more": page.more,
                "records": [record_json(record) for record in page.records],
            }
        )

    async def _page(self, since: int, feed: str, limit: int, wait_s: float) -> ChangesPage:
        """A page, at once if the node stops meanwhile."""
        read = functools.partial(self.app.replication.changes, since=since, feed=feed, limit=limit)
        if not wait_s:
            return await read(wait_s=0)
        waiting = asyncio.create_task(read(wait_s=wait_s))
        stopping = asyncio.create_task(self.app.system.stopping())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return await read(wait_s=0)


class DigestHandler(ActivePeerHandler):
    """`GET digest?root=R`: the digest of all records here, unless it is the caller's own."""

    async def get(self) -> None:
        """Answer."""
        digest = await self.app.anti_entropy.digest()
        self.write_json(digest_json(digest, self.get_query_argument("root", "")))


class FingerprintsHandler(ActivePeerHandler):
    """`POST digest/fingerprints`: of the records in some buckets."""

    async def post(self) -> None:
        """Those of as many buckets as fit into an answer."""
        asked = parse(BucketsQuery, _json(self.request.body)).buckets
        self.write_json(buckets_json(await self.app.anti_entropy.listed(asked)))


class DigestRecordsHandler(ActivePeerHandler):
    """`POST digest/records`: the full signed records of these fingerprints."""

    async def post(self) -> None:
        """Those that are here."""
        asked = parse(RecordsQuery, _json(self.request.body)).fingerprints
        self.write_json({"records": await self.app.anti_entropy.records(asked)})


class StatusHandler(ActivePeerHandler):
    """`GET status?hops=N`: what is on its way to this node, and with hops what it heard of its peers."""

    async def get(self) -> None:
        """What is known now; nobody is waited for."""
        around = self.app.neighbourhood
        sights = [await around.own()]
        if self.get_query_argument("hops", "0") != "0":
            around.look(hops=0)
            sights += [sight for sight in around.sights() if sight.node != self.peer]
        now = self.app.now()
        self.write_json(
            {
                "sights": [
                    {
                        "node": sight.node,
                        "age_ms": max(0, now - sight.at),
                        "peers": dict(sight.peers),
                        "moving": [asdict(moving) for moving in sight.moving],
                    }
                    for sight in sights[:SIGHTS_LIMIT]
                ]
            }
        )


class PackageHandler(ActivePeerHandler):
    """`GET packages/{id}`: the full signed record."""

    async def get(self, id: str) -> None:
        """Answer."""
        record = (await self.app.records.known(RecordKind.PACKAGE, id)).record
        if record is None or not self.app.records.goes_out(record):
            raise PackageUnknown()
        self.write_json(record_json(record))


class BytesHandler(ActivePeerHandler):
    """What is about certain bytes of a package: the query names their SHA-256."""

    def package(self, id: str) -> Package:
        """The package, if the bytes asked for are its newest ones."""
        package = self.app.catalogue.by_id(id)
        if package is None:
            raise PackageUnknown()
        if package.withdrawn:
            raise PackageWithdrawn()
        if self.get_query_argument("sha256", package.body.sha256) != package.body.sha256:
            raise Conflict("The package has other bytes now.")
        return package


class ManifestHandler(BytesHandler):
    """`GET packages/{id}/manifest`."""

    async def get(self, id: str) -> None:
        """Size, hashes and the chunk list."""
        manifest = await self.app.holdings.manifest(self.package(id).body)
        if manifest is None:
            raise PackageUnknown("The manifest is not known here.")
        self.write_json(manifest_json(manifest))


class ChunksHandler(BytesHandler):
    """`GET packages/{id}/chunks`: which chunks this node holds, one bit each."""

    async def get(self, id: str) -> None:
        """The packed bits, lowest first."""
        package = self.package(id)
        if package.presence is Presence.HELD:
            os.close(await open_held(self.app.blobs, self.app.verifying, package))
        packed = self.app.transfers.held_chunks(id, package.body.sha256)
        if packed is None:
            if package.presence not in {Presence.HELD, Presence.ARRIVING}:
                raise PackageUnknown(f"No chunk of it is here: {package.reason}.")
            # Of this size it was admitted here, so there is room for a bit a chunk.
            count = chunk_count(package.body.size)
            filled = b"\xff" if package.presence is Presence.HELD else b"\0"
            packed = ChunkMap(count, filled * -(-count // 8)).packed()
        self.set_header("Content-Type", "application/octet-stream")
        self.finish(packed)


class ComplaintsHandler(ActivePeerHandler):
    """`POST packages/{id}/complaints`: the caller got a chunk from here that is wrong."""

    async def post(self, id: str) -> None:
        """Verify the file, unless that was done a moment ago."""
        complaint = parse(Complaint, _json(self.request.body))
        package = self.app.catalogue.by_id(id)
        if package is None:
            raise PackageUnknown()
        if complaint.sha256 == package.held_sha256:
            await self.app.verifying.complained(self.peer, package)
        self.set_status(202)
        self.finish()


class ContentHandler(BytesHandler):
    """`GET packages/{id}/content`: bytes, by Range."""

    def compute_etag(self) -> str | None:
        """None: Tornado must not hash bodies."""
        return None

    async def get(self, id: str) -> None:
        """The bytes, or a stretch of them."""
        package = self.package(id)
        if package.held_sha256 != package.body.sha256:
            raise PackageArriving(f"This node does not hold the bytes: {package.reason}.", retry_after=30)
        descriptor = await open_held(self.app.blobs, self.app.verifying, package)
        try:
            size = os.fstat(descriptor).st_size
            first, length = 0, size
            try:
                span = parse_range(self.request.headers.get("Range"), size)
            except Unsatisfiable:
                raise tornado.web.HTTPError(416, f"The file has {size} bytes.") from None
            if span is not None:
                first, length = span.first, span.length
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {first}-{first + length - 1}/{size}")
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Length", str(length))
            await send_file(self, descriptor, first, length, self.app.metrics.sent_to_peers)
        except FileFailed:
            self.app.verifying.suspect(package)
        except tornado.iostream.StreamClosedError:
            return  # the peer went away
        finally:
            os.close(descriptor)


class ProofHandler(BytesHandler):
    """`GET packages/{id}/proof?sha256=S&chunk=N&holder=NODE`: a chunk, to prove that a node has the bytes.

    The holder is this node or a direct peer of it, which is asked then.
    """

    async def get(self, id: str) -> None:
        """The chunk."""
        package = self.package(id)
        holder = self.get_query_argument("holder", "")
        try:
            index = int(self.get_query_argument("chunk", ""))
        except ValueError as exc:
            raise InvalidInput("chunk is a number.") from exc
        data = await self.app.release_check.answer(package, index, holder)
        self.set_header("Content-Type", "application/octet-stream")
        self.finish(data)


ROUTES = [
    (r"/peer/v1/node", NodeHandler),
    (r"/peer/v1/registrations", RegistrationsHandler),
    (r"/peer/v1/registrations/([a-z2-7]{52})", RegistrationHandler),
    (r"/peer/v1/announcements", AnnouncementsHandler),
    (r"/peer/v1/changes", ChangesHandler),
    (r"/peer/v1/digest", DigestHandler),
    (r"/peer/v1/digest/fingerprints", FingerprintsHandler),
    (r"/peer/v1/digest/records", DigestRecordsHandler),
    (r"/peer/v1/status", StatusHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})", PackageHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})/manifest", ManifestHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})/chunks", ChunksHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})/content", ContentHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})/proof", ProofHandler),
    (r"/peer/v1/packages/([a-z2-7]{32})/complaints", ComplaintsHandler),
]
