"""Anti-entropy: two nodes compare a digest of what they know, and each fetches what it lacks.

The change feed tells what is new, and is right as long as the reader's position is. After a restore, a copy, a lost
cursor or a fault it may not be, and a record that was missed once is never told again. So peers compare the sets
themselves: after a reconnection, a start and a registration, when a feed has a new id, and once an hour. It is
cheapest where nothing differs, which is nearly always:

    asks                                                       answers
    GET digest?root=R                                ------>   the same; or 8 bytes for each of 4,096 buckets
    POST digest/fingerprints: buckets that differ    ------>   5 bytes for each record in them
    POST digest/records: fingerprints that it lacks  ------>   the signed records, which are taken in as any others
    POST announcements: compare                      ------>   where the other lacks something, it asks in turn

Digests are read from the database each time, never kept up beside it: a record that a fault deleted is missing in
them. Everything is bounded: buckets, fingerprints and records of one request and of one comparison, and how often a
peer's wish is followed. A comparison that fetched something and did not come to an end goes on in another job.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import PeerError, PeerMisbehaved, PeerNotFound, PeerRefused
from appliance.domain.fingerprint import (
    LOW_BITS,
    Digest,
    bucket_range,
    fingerprint,
    pack_bucket,
)
from appliance.domain.job import Job
from appliance.domain.record import TOMBSTONE_LIFE_MS, Record
from appliance.jobs.new import new_job
from appliance.peering.records import record_json
from appliance.peering.wire import BUCKETS_LIMIT, FETCHED_LIMIT
from appliance.store.migrations import fill_fingerprints
from appliance.store.ports import Store

from .peers import Peers, compared_id
from .records import Records

log = logging.getLogger(__name__)

COMPARE_JOB = "replication.compare"
DIGEST_LIFE_S = 5.0  #: a digest is good for so long: many peers may ask at once
LISTED = 20_000  #: fingerprints in one answer
EXAMINED = 512  #: buckets of one comparison
FETCHED = 5_000  #: records that one comparison asks for
FRUITLESS = 50_000  #: fingerprints that are remembered since fetching them from a peer brought nothing new
FRUITLESS_MS = 6 * 3600 * 1000
TURN_MS = 10_000  #: between two comparisons that a peer brings about
_AT_ONCE = 4  #: peers that are compared with at a time
_SURPLUS = 1_000  #: fingerprints that only this node has, of which one is enough
#: fingerprints of one request; a peer that gives none of these records is asked for no more now
_EMPTY_HANDED = 50


def compare_job(now: int, peer: str = "", *, wished: bool = False) -> Job:
    """The job that compares with one peer, or with all whose turn it is.

    Args:
        now: When, UTC milliseconds.
        peer: The peer; "" for all.
        wished: Whether the peer asked for it; then it is not asked in turn.
    """
    return new_job(
        "duty", COMPARE_JOB, now, key=f"{COMPARE_JOB}:{peer}", args={"peer": peer, "wished": wished}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a comparison ended."""

    equal: bool = False  #: nothing differed
    fetched: int = 0  #: records that were missing or older here, and are not any more
    complete: bool = True  #: whether all that differed was looked at
    lacks: bool = False  #: whether the peer lacks something that is here


@dataclass(slots=True, kw_only=True)
class _Difference:
    """What two nodes' lists of some buckets show."""

    lacking: list[int] = field(default_factory=list)  #: fingerprints that only the peer has
    surplus: list[int] = field(default_factory=list)  #: some that only this node has
    equal: bool = True
    complete: bool = True


class AntiEntropy:
    """Compares with peers, and answers those that compare."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        peers: Peers,
        calls: Executor,
        every_s: float,
        now: Callable[[], int],
        read: Callable[[str], Awaitable[None]],
        take: Callable[[str, Sequence[Any]], Awaitable[Sequence[Record]]],
        observe: Callable[[str, int], None] = lambda _outcome, _fetched: None,
    ) -> None:
        """Make one.

        Args:
            store: Where the records are.
            records: Reads them.
            peers: Who is registered.
            calls: Threads for requests.
            every_s: Seconds between two comparisons with a peer.
            now: UTC milliseconds.
            read: Reads a peer's change feed to its end.
            take: Takes in records that a peer gave; returns those that were new.
            observe: Told how each comparison ended ("equal", "fetched", "ahead" or "failed"), and how many records
                it brought.
        """
        self._store = store
        self._records = records
        self._peers = peers
        self._calls = calls
        self._every_ms = round(every_s * 1000)
        self._now = now
        self._read = read
        self._take = take
        self._observe = observe
        self._computing = asyncio.Lock()
        self._digest: tuple[float, Digest] | None = None
        self._fruitless: dict[
            tuple[str, int], int
        ] = {}  #: when, by peer and fingerprint: another may have it
        self._turns: dict[str, int] = {}  #: the last turn of each peer that wanted one, UTC milliseconds

    # For peers

    async def digest(self) -> Digest:
        """The digest of all records here, at most a few seconds old."""
        async with self._computing:
            if self._digest is None or time.monotonic() - self._digest[0] > DIGEST_LIFE_S:
                began = time.monotonic()
                sums = await self._store.sums("records", "fingerprint", low_bits=LOW_BITS)
                self._digest = (began, Digest.of(sums))
            return self._digest[1]

    async def listed(self, buckets: Iterable[int]) -> dict[int, bytes]:
        """The packed fingerprints of buckets: as many whole buckets as fit into an answer, at least one."""
        found: dict[int, bytes] = {}
        left = LISTED
        for bucket in buckets:
            prints = await self._prints(bucket)
            if found and len(prints) > left:
                break
            found[bucket] = pack_bucket(prints)
            left -= len(prints)
        return found

    async def records(self, prints: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these fingerprints, as they are passed on.

        Those that are not here any more, break a rule or are ahead of the clock are missing.
        """
        where = {"fingerprint": {"in": list(prints)}}
        docs = await self._store.find("records", where, limit=2 * len(prints))
        found = [record for doc in docs if (record := self._records.read(doc)) is not None]
        return [record_json(record) for record in found if self._records.goes_out(record)]

    async def wished(self, peer: str) -> None:
        """A peer found that this node lacks something: compare soon."""
        await self._store.enqueue(compare_job(self._next_turn(peer), peer, wished=True))

    async def _prints(self, bucket: int) -> list[int]:
        first, end = bucket_range(bucket)
        return await self._store.values("records", "fingerprint", first=first, end=end, limit=LISTED)

    # Comparing

    async def due(self, peer: str) -> None:
        """Something happened after which a peer may have what this node lacks: compare soon."""
        await self._store.enqueue(compare_job(self._next_turn(peer), peer))

    def _next_turn(self, peer: str) -> int:
        """When to compare with a peer that may want it all the time: now, or a while after its last turn."""
        now = self._now()
        turn = min(max(now, self._turns.get(peer, 0) + TURN_MS), now + TURN_MS)
        self._turns[peer] = turn
        return turn

    async def run(self, job: Job) -> None:
        """Run a job of `compare_job`."""
        await fill_fingerprints(self._store)  # of records that an older version, or mongorestore, wrote
        peer = str(job.args.get("peer", ""))
        waiting = [peer] if peer else [each for each in self._peers.active_ids() if await self._is_due(each)]

        async def drain() -> None:
            while waiting:
                await self.compare(waiting.pop(), wished=bool(job.args.get("wished")))

        await asyncio.gather(*(drain() for _ in range(min(_AT_ONCE, len(waiting)))))

    async def _is_due(self, peer: str) -> bool:
        doc = await self._store.get("followers", compared_id(peer))
        return doc is None or not 0 <= self._now() - doc["at"] < self._every_ms // 2

    async def compare(self, peer: str, *, wished: bool = False) -> Comparison | None:
        """Read a peer's feed, then compare with it, and fetch what is missing or older here.

        Returns:
            How it ended; None if the peer cannot be asked, or is of a version that does not know how.
        """
        if not self._peers.is_active(peer) or self._peers.backing_off(peer):
            return None
        await self._read(peer)
        if not self._peers.is_active(peer) or self._peers.backing_off(peer):
            return None
        try:
            found = await self._compare(peer)
        except PeerNotFound:
            return None
        except PeerRefused as exc:
            if exc.details.get("status") != 404:
                await self._failed(peer, exc)
            return None
        except PeerError as exc:
            await self._failed(peer, exc)
            return None
        self._observe("equal" if found.equal else "fetched" if found.fetched else "ahead", found.fetched)
        if found.fetched:
            log.info(
                "records were missing here; they came from a peer",
                extra={"action": "records_healed", "peer": peer, "count": found.fetched},
            )
        now = self._now()
        await self._store.replace(
            "followers", {"_id": compared_id(peer), "at": now, "equal": found.equal, "fetched": found.fetched}
        )
        if found.fetched and not found.complete:
            await self._store.enqueue(compare_job(now, peer, wished=wished))
        if found.lacks and not wished:
            await self._wish(peer)
        return found

    async def _failed(self, peer: str, error: PeerError) -> None:
        self._observe("failed", 0)
        log.warning(
            "a peer could not be compared with",
            extra={"action": "compare_failed", "peer": peer, "reason": error.message},
        )
        await self._peers.record_failure(peer, error)

    async def _wish(self, peer: str) -> None:
        try:
            await self._call(self._peers.client(peer).announce, [], None, True)
        except PeerNotFound:
            pass
        except PeerError as exc:
            await self._peers.record_failure(peer, exc)  # it compares by itself, at the latest in an hour

    async def _compare(self, peer: str) -> Comparison:
        client = self._peers.client(peer)
        mine = await self.digest()
        theirs = await self._call(client.digest, mine.root)
        await self._peers.record_success(peer)
        if theirs is None:
            return Comparison(equal=True)
        differing = mine.differing(theirs)
        # From anywhere: what stands at the beginning and cannot be mended must not hide the rest.
        start = secrets.randbelow(len(differing)) if differing else 0
        chosen = [*differing[start:], *differing[:start]][:EXAMINED]
        difference = await self._examine(client.fingerprints, chosen, self._still_fruitless(peer))
        fetched = await self._fetch(peer, client.digest_records, difference.lacking)
        if fetched:
            self._digest = None
        return Comparison(
            equal=difference.equal,
            fetched=fetched,
            complete=difference.complete and len(chosen) == len(differing),
            lacks=await self._still_here(difference.surplus),
        )

    async def _examine(
        self,
        ask: Callable[[Sequence[int]], Mapping[int, set[int]]],
        buckets: Sequence[int],
        fruitless: set[int],
    ) -> _Difference:
        found = _Difference()
        waiting = list(buckets)
        while waiting and len(found.lacking) < FETCHED:
            part = waiting[:BUCKETS_LIMIT]
            answer = await self._call(ask, part)
            if not answer:
                raise PeerMisbehaved("It lists no fingerprints of the buckets that it was asked for.")
            for bucket, theirs in answer.items():
                mine = set(await self._prints(bucket))
                found.equal = found.equal and theirs == mine
                found.lacking += theirs - mine - fruitless
                if len(theirs) < LISTED and len(found.surplus) < _SURPLUS:
                    found.surplus += mine - theirs
            waiting = [bucket for bucket in waiting if bucket not in answer]
        found.complete = not waiting and len(found.lacking) <= FETCHED
        del found.lacking[FETCHED:]
        return found

    async def _fetch(
        self, peer: str, ask: Callable[[Sequence[int]], Sequence[Any]], prints: Sequence[int]
    ) -> int:
        """Ask a peer for records and take them in; return how many were new."""
        fetched = 0
        expired = self._now() - TOMBSTONE_LIFE_MS
        for start in range(0, len(prints), FETCHED_LIMIT):
            part = prints[start : start + FETCHED_LIMIT]
            records = await self._call(ask, part)
            if not {_fingerprint(record) for record in records} <= set(part):
                raise PeerMisbehaved("It gives other records than it was asked for.")
            # A tombstone whose time is over is about to be deleted there, as it was here.
            wanted = [record for record in records if not (record["deleted"] and record["at"] < expired)]
            winners = await self._take(peer, wanted)
            fetched += len(winners)
            new = {fingerprint(record.key_in_store, record.signature) for record in winners}
            self._note_fruitless(peer, (each for each in part if each not in new))
            if len(part) >= _EMPTY_HANDED and not records:
                break  # it breaks off, or passes none of these on: not for ever
        return fetched

    async def _still_here(self, prints: Sequence[int]) -> bool:
        """Whether a record of one of these fingerprints was not replaced by what was fetched."""
        where = {"fingerprint": {"in": prints[:_SURPLUS]}}
        return bool(prints) and bool(await self._store.find("records", where, limit=1))

    def _still_fruitless(self, peer: str) -> set[int]:
        since = self._now() - FRUITLESS_MS
        self._fruitless = {each: at for each, at in self._fruitless.items() if since < at}
        return {each for of, each in self._fruitless if of == peer}

    def _note_fruitless(self, peer: str, prints: Iterable[int]) -> None:
        if len(self._fruitless) > FRUITLESS:
            self._fruitless.clear()
        self._fruitless.update(dict.fromkeys(((peer, each) for each in prints), self._now()))

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function, *args)


def _fingerprint(record: Any) -> int:
    """The fingerprint of a record as it came.

    Raises:
        PeerMisbehaved: It is none.
    """
    if not isinstance(record, dict) or not isinstance(record.get("at"), int) or "deleted" not in record:
        raise PeerMisbehaved("What it gives is no record.")
    return fingerprint(f"{record.get('kind')}:{record.get('id')}", str(record.get("signature")))
