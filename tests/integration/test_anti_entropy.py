"""Two nodes compare what they know, over real stores and the JSON of the wire."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.domain.errors import PeerError, PeerMisbehaved, PeerRefused
from appliance.domain.fingerprint import Digest, fingerprint
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import ReplicaBody
from appliance.domain.record import TOMBSTONE_LIFE_MS, Record, RecordKind, replica_id
from appliance.peering.identity import Identity
from appliance.peering.records import parse_record, record_json, sign_record
from appliance.peering.wire import buckets_json, digest_json, parse_buckets, parse_digest
from appliance.service import anti_entropy as module
from appliance.service.anti_entropy import AntiEntropy, Comparison
from appliance.service.intake import Intake
from appliance.service.peers import compared_id
from appliance.service.records import Records, record_doc
from appliance.store.opening import open_store
from appliance.store.ports import Done, Replace, Store
from tests.builders import package_body

NOW = 1_800_000_000_000


def signed(kind: RecordKind, id: str, revision: int, author: Identity, *, deleted: bool = False) -> Record:
    match kind:
        case RecordKind.PACKAGE:
            body: Any = package_body(id, b"x")
            id = package_id(id)
        case RecordKind.REPLICA:
            package = package_id(id)
            id = replica_id(package, author.node_id)
            body = ReplicaBody(package=package, node=author.node_id, sha256="0" * 64, presence="held")
        case RecordKind.NODE:
            body = NodeBody(name=id, url="http://127.0.0.1:1", stage="prod", version="1")
            id = author.node_id
    return sign_record(
        author,
        kind=kind,
        id=id,
        revision=revision,
        at=NOW - 1000 + revision,
        deleted=deleted,
        body=asdict(body),
    )


AUTHORS = [Identity.generate() for _ in range(2)]
POOL = [
    signed(kind, name, revision, author, deleted=revision == 3)
    for kind in RecordKind
    for name in ("a.pkg", "b.pkg", "c.pkg")
    for revision in (1, 2, 3)
    for author in AUTHORS
]
Kept = dict[str, Record]


def kept(records: Sequence[Record]) -> Kept:
    """What a node keeps of these records."""
    found: Kept = {}
    for record in records:
        if record.outranks(found.get(record.key_in_store)):
            found[record.key_in_store] = record
    return found


def signatures(records: Sequence[Record]) -> dict[str, str]:
    """The signature of each record that a node keeps of these."""
    return {key: record.signature for key, record in kept(records).items()}


async def nothing(*_: Any, **__: Any) -> None:
    pass


async def nothing_kept(*_: Any) -> list[Any]:
    return []


class Client:
    """Calls another node's service as the wire would carry it."""

    def __init__(self, other: "Side", loop: asyncio.AbstractEventLoop) -> None:
        self.other = other
        self.loop = loop
        self.calls: list[tuple[str, int]] = []
        self.meddle: Callable[[str, Any], Any] = lambda _, answer: answer

    def digest(self, root: str) -> Digest | None:
        async def answer() -> Any:
            return digest_json(await self.other.service.digest(), root)

        return self._checked(lambda: parse_digest(self._over_the_wire("digest", answer()), root))

    def fingerprints(self, buckets: Sequence[int]) -> dict[int, set[int]]:
        async def answer() -> Any:
            return buckets_json(await self.other.service.listed(buckets))

        return self._checked(lambda: parse_buckets(self._over_the_wire("fingerprints", answer()), buckets))

    def digest_records(self, prints: Sequence[int]) -> list[Any]:
        found: list[Any] = self._over_the_wire("records", self.other.service.records(prints))
        return found

    def announce(self, _records: Any, _node: Any, compare: bool) -> None:
        assert compare
        self._over_the_wire("wish", self.other.service.wished("one"))

    def _over_the_wire(self, name: str, answer: Any) -> Any:
        data = json.dumps(asyncio.run_coroutine_threadsafe(answer, self.loop).result(20))
        self.calls.append((name, len(data)))
        return self.meddle(name, json.loads(data))

    @staticmethod
    def _checked(read: Callable[[], Any]) -> Any:
        from appliance.domain.errors import WireInvalid

        try:
            return read()
        except WireInvalid as exc:
            raise PeerMisbehaved(exc.message) from exc


class Side:
    """One of two nodes."""

    def __init__(self, store: Store, calls: ThreadPoolExecutor) -> None:
        self.store = store
        self.client: Client | None = None
        self.failures: list[PeerError] = []
        self.strikes: list[str] = []
        self.now = NOW
        identity = Identity.generate()
        holdings = SimpleNamespace(
            on_written=lambda: None, refresh_nodes=nothing, settle_many=nothing,
            cares_for_replicas_of=lambda *_: False,
        )  # fmt: skip

        async def strike(_peer: str, reason: str) -> None:
            self.strikes.append(reason)

        async def failure(_peer: str, error: PeerError) -> None:
            self.failures.append(error)

        records = Records(store, identity, lambda: self.now)
        self.intake = Intake(
            store=store,
            records=records,
            holdings=cast(Any, holdings),
            trash=cast(Any, SimpleNamespace(passed_over=nothing_kept)),
            node_id=identity.node_id,
            strike=strike,
            refused=lambda _code, _count: None,
            now=lambda: self.now,
        )
        peers = SimpleNamespace(
            is_active=lambda _: True, backing_off=lambda _: False, client=lambda _: self.client,
            active_ids=lambda: ["one"], record_success=nothing, record_failure=failure,
        )  # fmt: skip
        self.service = AntiEntropy(
            store=store, records=records, peers=cast(Any, peers), calls=calls, every_s=3600, now=lambda: self.now,
            read=nothing, take=self.intake.take,
        )  # fmt: skip

    async def keep(self, records: Sequence[Record]) -> None:
        """Have exactly these records."""
        await self.store.delete("records", {})
        await self.store.batch([Replace("records", record_doc(record)) for record in kept(records).values()])
        self.service._digest = None
        self.service._fruitless.clear()

    async def known(self) -> dict[str, str]:
        """The signature of each record."""
        return {
            doc["_id"]: doc["record"]["signature"] for doc in await self.store.find("records", limit=100_000)
        }

    async def compare(self) -> Comparison | None:
        self.service._digest = None
        if self.client is not None:
            self.client.other.service._digest = None
        return await self.service.compare("one")


Test = Callable[[Side, Side], Awaitable[None]]


def with_sides(directory: Path, test: Test, urls: Sequence[str] = ("", "")) -> None:
    async def run() -> None:
        stores = [await open_store(url, directory / name) for url, name in zip(urls, "ab", strict=True)]
        with ThreadPoolExecutor(4) as calls:
            try:
                a, b = (Side(store, calls) for store in stores)
                loop = asyncio.get_running_loop()
                a.client, b.client = Client(b, loop), Client(a, loop)
                await test(a, b)
            finally:
                for store in stores:
                    await store.close()

    for name in "ab":
        (directory / name).mkdir(exist_ok=True)
    asyncio.run(run())


def many(count: int, revision: int = 1) -> list[Record]:
    """Replica records that nobody has to verify: their signature is no more than a word."""
    return [
        Record(
            kind=RecordKind.REPLICA, id=f"{number:032}.n", revision=revision, author="n", key="k", at=NOW,
            deleted=False, body={}, signature=f"s{number}.{revision}",
        )
        for number in range(count)
    ]  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)])
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    if request.param == "sqlite":
        return ("", "")
    server = request.getfixturevalue("mongod")
    return (server.url("entropy_a"), server.url("entropy_b"))


@given(st.lists(st.sampled_from(POOL), max_size=12), st.lists(st.sampled_from(POOL), max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_two_nodes_know_they_know_the_same_afterwards(
    tmp_path: Path, one: list[Record], two: list[Record]
) -> None:
    async def test(a: Side, b: Side) -> None:
        await a.keep(one)
        await b.keep(two)
        found = await a.compare()
        assert found is not None
        assert found.equal == (signatures(one) == signatures(two))
        assert await a.known() == signatures([*one, *two])
        await b.compare()
        assert await b.known() == signatures([*one, *two])
        again = await a.compare()
        assert again is not None
        assert again.equal
        assert a.failures == b.failures == []
        assert a.strikes == b.strikes == []

    with_sides(tmp_path, test)


def test_on_both_databases(urls: tuple[str, str], tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await a.keep(POOL[:20])
        await b.keep(POOL[10:])
        await a.compare()
        await b.compare()
        assert await a.known() == await b.known() == signatures(POOL)

    with_sides(tmp_path, test, urls)


def test_nothing_differs_and_little_is_said(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await a.keep(POOL)
        await b.keep(POOL)
        found = await a.compare()
        assert found == Comparison(equal=True)
        assert a.client is not None
        [(name, size)] = a.client.calls
        assert name == "digest"
        assert size < 120
        doc = await a.store.get("followers", compared_id("one"))
        assert doc is not None
        assert doc["at"] == NOW

    with_sides(tmp_path, test)


def test_the_other_is_told_that_it_lacks_something_and_does_not_tell_in_turn(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await a.keep(POOL)
        found = await a.compare()
        assert found is not None
        assert found.lacks
        [job] = await b.store.find_jobs({"name": module.COMPARE_JOB})
        assert job.args == {"peer": "one", "wished": True}
        assert b.client is not None
        b.service._digest = None
        await b.service.run(job)
        assert await b.known() == await a.known()
        assert [name for name, _ in b.client.calls if name == "wish"] == []
        # However often it is told: not more often than so.
        for _ in range(5):
            await b.service.wished("two")
        turns = {job.run_at for job in await b.store.find_jobs({"name": module.COMPARE_JOB})}
        assert max(turns) <= NOW + module.TURN_MS

    with_sides(tmp_path, test)


def test_a_tombstone_whose_time_is_over_is_not_brought_back(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await b.keep([record for record in POOL if record.deleted])
        a.now = NOW + TOMBSTONE_LIFE_MS + 1
        await a.compare()
        assert await a.known() == {}

    with_sides(tmp_path, test)


@pytest.fixture
def only_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored records are read as they are, so that unsigned ones of any content do."""
    monkeypatch.setattr("appliance.service.records.stored_record", lambda doc: parse_record(doc["record"]))


@pytest.mark.usefixtures("only_shape")
def test_what_cannot_be_taken_is_asked_for_once(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await b.keep(many(3))
        await a.compare()
        assert await a.known() == {}
        assert len(a.strikes) == 1
        await a.compare()
        assert len(a.strikes) == 1, "they are remembered"
        a.now += module.FRUITLESS_MS + 1
        await a.compare()
        assert len(a.strikes) == 2, "for some hours"

    with_sides(tmp_path, test)


def test_what_one_peer_cannot_give_is_asked_of_another(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await b.keep(POOL[:3])
        assert a.client is not None
        a.client.meddle = lambda name, answer: [] if name == "records" else answer
        await a.compare()
        assert await a.known() == {}
        a.client.meddle = lambda _name, answer: answer
        await a.compare()
        assert await a.known() == {}, "the one is not asked again"
        await a.service.compare("two")
        assert await a.known() == await b.known()

    with_sides(tmp_path, test)


@pytest.mark.usefixtures("only_shape")
def test_a_great_difference_takes_several_rounds_and_each_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "appliance.service.intake._verified", lambda raw, _now: ([_parse(each) for each in raw], [])
    )
    monkeypatch.setattr(module, "FETCHED", 500)
    monkeypatch.setattr(module, "EXAMINED", 200)

    async def test(a: Side, b: Side) -> None:
        await b.keep(many(1500))
        assert a.client is not None
        await a.service.run(module.compare_job(NOW, "one"))
        calls = [name for name, _ in a.client.calls]
        assert calls.count("records") <= 3
        assert calls.count("fingerprints") <= 4
        rounds = 1
        while jobs := await a.store.claim("duty", "w", now=NOW + 10**6, lease_ms=10**9):
            for service in (a.service, b.service):
                service._digest = None
            await a.service.run(jobs[0])
            await a.store.settle(jobs[0], Done(), now=NOW)
            rounds += 1
        assert 3 <= rounds <= 40
        assert await a.known() == await b.known()

    with_sides(tmp_path, test)


def _parse(item: Mapping[str, Any]) -> Record:
    return Record(**{**item, "kind": RecordKind(item["kind"])})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("digest", {"root": "0" * 64, "buckets": ""}),
        ("digest", {"root": "0" * 64, "buckets": "AAAA"}),
        ("digest", {"root": "0" * 64, "buckets": "!"}),
        ("digest", {"root": 5}),
        ("digest", []),
        ("fingerprints", {"buckets": {}}),
        ("fingerprints", {"buckets": {"4095": "AAAAAAA="}}),
        ("fingerprints", {"buckets": {"x": ""}}),
        ("fingerprints", {"buckets": None}),
        ("records", [None]),
        ("records", [{}]),
        ("records", [record_json(POOL[-1])]),
    ],
)
def test_a_peer_that_lies_is_struck_and_nothing_is_taken(name: str, answer: Any, tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        await b.keep(POOL[:1])
        assert a.client is not None
        a.client.meddle = lambda asked, true: answer if asked == name else true
        assert await a.compare() is None
        [error] = a.failures
        assert isinstance(error, PeerMisbehaved)
        assert await a.known() == {}

    with_sides(tmp_path, test)


@pytest.mark.usefixtures("only_shape")
def test_a_peer_that_gives_nothing_of_what_it_lists_is_not_asked_on(tmp_path: Path) -> None:
    """It is no liar for that: what breaks a rule, or is ahead of the clock, is listed and does not go out."""

    async def test(a: Side, b: Side) -> None:
        await b.keep(many(4000))
        b.now = NOW - 3 * 3600 * 1000
        assert a.client is not None
        found = await a.compare()
        assert found is not None
        assert found.fetched == 0
        assert [name for name, _ in a.client.calls].count("records") == 1
        assert a.failures == []
        assert a.strikes == []
        jobs = await a.store.find_jobs({"name": module.COMPARE_JOB})
        assert jobs == [], "nothing was fetched, so it is not gone on with at once"

    with_sides(tmp_path, test)


def test_an_older_peer_is_left_alone(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        assert a.client is not None

        def refuse(_asked: str, _answer: Any) -> Any:
            raise PeerRefused("It answered 404", status=404)

        a.client.meddle = refuse
        assert await a.compare() is None
        assert a.failures == []

    with_sides(tmp_path, test)


def test_a_list_has_as_many_buckets_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED", 10)

    async def test(a: Side, b: Side) -> None:
        some = many(4000)
        await a.keep(some)
        buckets = sorted({fingerprint(each.key_in_store, each.signature) >> 40 for each in some})[:64]
        listed = await a.service.listed(buckets)
        assert 1 <= len(listed) < 64
        assert list(listed) == buckets[: len(listed)]
        assert sum(map(len, listed.values())) <= 10 * 5

    with_sides(tmp_path, test)
