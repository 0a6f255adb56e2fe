"""Distribution point records: one for every node, nothing of anybody else touched, no request without a change."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.mdm_errors import MdmError, MdmNeedsAttention, MdmRefused, MdmUnreachable
from appliance.domain.node import NodeBody
from appliance.store.opening import open_store
from appliance.store.ports import Doc, Store
from jamf_bridge.driver import NodeFacts
from jamf_bridge.points.node_facts import facts_mark, node_facts
from jamf_bridge.points.places import is_principal, same_place
from jamf_bridge.points.points import AFTER_FAULT_MS, LOOK_MS, Points, PointsSummary
from jamf_bridge.servers.config import ServerConfig
from jamf_bridge.servers.server import Server
from tests.fakes.driver_d import FakeMdm, Killed
from tests.unit.mirroring import Clock


class Network:
    """Stands for `Holdings`: the nodes of the network."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeBody] = {}
        self.tombstones: set[str] = set()

    def add(self, name: str, **fields: Any) -> None:
        """A node whose id is its name's first letter, many times."""
        values = {"url": f"https://{name}.example.com:8440", "stage": "prod", "version": "1", **fields}
        self.nodes[name[0] * 52] = NodeBody(name=name, **values)

    def leave(self, name: str) -> None:
        """A node leaves, and says so."""
        del self.nodes[name[0] * 52]
        self.tombstones.add(name[0] * 52)

    async def left(self, ids: Iterable[str]) -> set[str]:
        """As `Holdings.left`."""
        return self.tombstones & set(ids)


class Desk:
    """Points and all that they need."""

    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.store = store
        self.mdm = FakeMdm()
        self.network = Network()
        self.restart()
        self.server = Server(id="s1", config=ServerConfig(name="Jamf", kind="fake"), rev=1)

    def restart(self) -> None:
        """Forget what is in memory."""
        self.points = Points(store=self.store, holdings=self.network, now=self.clock)  # type: ignore[arg-type]

    def configure(self, **values: Any) -> None:
        """Change the settings."""
        config = self.server.config.model_dump()
        config["points"].update(values)
        self.server = replace(
            self.server, config=ServerConfig.model_validate(config), rev=self.server.rev + 1
        )

    async def run(self) -> PointsSummary:
        """One run."""
        return await self.points.run(self.server, self.mdm)

    async def look(self) -> PointsSummary:
        """A run an hour later."""
        self.clock.ms += LOOK_MS
        return await self.run()

    async def row(self, name: str) -> Doc:
        """What is kept of a node's record."""
        doc = await self.store.get("mdm_points", f"s1:{name[0] * 52}")
        assert doc is not None
        return doc

    async def events(self) -> list[Doc]:
        """What was written there."""
        return await self.store.find("events", {"type": "mdm.point_written"}, order="seq")

    def names(self) -> list[str]:
        """Of the records there."""
        return sorted(point["name"] for point in self.mdm.points.values())

    def by_hand(self, **fields: Any) -> str:
        """A record that a person made."""
        id = self.mdm.id()
        self.mdm.points[id] = {"id": id, "principal": False, "httpsPort": 443, **fields}
        return id


def with_desk(root: Path, test: Callable[[Desk], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", root)
        try:
            await test(Desk(store))
        finally:
            await store.close()

    asyncio.run(go())


def test_every_node_has_a_record_and_then_nothing_is_asked(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for name in ("zurich", "bern", "geneva"):
            desk.network.add(name)
        assert await desk.run() == PointsSummary(written=3)
        assert desk.names() == ["ODS - bern", "ODS - geneva", "ODS - zurich"]
        assert {event["subject"][0] for event in await desk.events()} == {"z", "b", "g"}
        row = await desk.row("bern")
        assert (row["state"], row["ours"]) == ("mirrored", True)
        desk.mdm.calls.clear()
        for _ in range(5):
            desk.clock.ms += LOOK_MS // 6
            assert await desk.run() == PointsSummary(unchanged=3)
        assert desk.mdm.calls == []
        assert await desk.look() == PointsSummary(unchanged=3)
        assert desk.mdm.calls == ["points"]
        assert (await desk.row("bern"))["_rev"] == row["_rev"]

    with_desk(tmp_path, test)


def test_a_new_node_or_setting_is_seen_at_once(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        await desk.run()
        desk.network.add("bern")
        assert await desk.run() == PointsSummary(written=1, unchanged=1)
        desk.network.add("bern", url="https://other.example.com")
        assert await desk.run() == PointsSummary(written=1, unchanged=1)
        assert {point["serverName"] for point in desk.mdm.points.values()} == {
            "other.example.com",
            "zurich.example.com",
        }
        desk.configure(name="{{ name }} ({{ stage }})")
        assert await desk.run() == PointsSummary(written=2)
        assert desk.names() == ["bern (prod)", "zurich (prod)"]

    with_desk(tmp_path, test)


def test_urls_can_be_overridden_by_name_and_by_id(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        desk.configure(urls={"zurich": "https://one.example.com", "b" * 52: "https://two.example.com"})
        await desk.run()
        assert sorted(point["serverName"] for point in desk.mdm.points.values()) == [
            "one.example.com",
            "two.example.com",
        ]

    with_desk(tmp_path, test)


def test_what_a_person_changed_stays(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        await desk.run()
        (point,) = desk.mdm.points.values()
        point["httpsPort"] = 9999
        assert await desk.look() == PointsSummary(unchanged=1)
        assert point["httpsPort"] == 9999

    with_desk(tmp_path, test)


def test_a_record_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        id = desk.by_hand(name="ods - ZURICH", serverName="elsewhere.example.com")
        before = dict(desk.mdm.points[id])
        assert await desk.run() == PointsSummary(conflicts=1)
        row = await desk.row("zurich")
        assert (row["state"], row["ours"]) == ("conflict", False)
        assert "another distribution point" in row["error"]
        assert desk.mdm.points == {id: before}
        desk.network.leave("zurich")
        desk.network.add("bern")
        await desk.run()
        assert desk.mdm.points[id] == before, "nor is it removed"

    with_desk(tmp_path, test)


def test_a_persons_record_of_the_node_itself_is_taken_and_never_written(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        id = desk.by_hand(name="ODS - zurich", serverName="Zurich.example.com", httpsPort=8440, mine="yes")
        before = dict(desk.mdm.points[id])
        for _ in range(2):
            assert await desk.look() == PointsSummary(unchanged=1)
        row = await desk.row("zurich")
        assert (row["state"], row["ours"], row["remote_id"]) == ("mirrored", False, id)
        desk.configure(failover=False)
        await desk.run()
        desk.network.leave("zurich")
        desk.network.add("bern")
        await desk.run()
        assert desk.mdm.points[id] == before
        assert await desk.store.get("mdm_points", row["_id"]) is None

    with_desk(tmp_path, test)


def test_the_principal_is_never_ours_to_make_or_to_remove(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        assert not any(point["principal"] for point in desk.mdm.points.values())
        row = await desk.row("zurich")
        desk.mdm.points[row["remote_id"]]["principal"] = True
        desk.network.leave("zurich")
        await desk.run()
        assert row["remote_id"] in desk.mdm.points
        assert "principal" in (await desk.row("zurich"))["error"]

    with_desk(tmp_path, test)


def test_the_record_of_a_node_that_left_is_removed(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        desk.network.leave("zurich")
        assert await desk.run() == PointsSummary(unchanged=1, removed=1)
        assert desk.names() == ["ODS - bern"]
        assert (await desk.events())[-1]["data"]["removed"] is True
        assert await desk.look() == PointsSummary(unchanged=1)

    with_desk(tmp_path, test)


def test_a_node_whose_record_is_only_absent_keeps_its_distribution_point(tmp_path: Path) -> None:
    """Its record breaks a rule, is damaged, or was removed by a repair; it comes back with the next one."""

    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        row, points = await desk.row("zurich"), dict(desk.mdm.points)
        node = desk.network.nodes.pop("z" * 52)
        for _ in range(3):
            assert await desk.look() == PointsSummary(unchanged=1)
        assert (desk.mdm.points, await desk.row("zurich")) == (points, row)
        desk.network.nodes["z" * 52] = node
        assert await desk.look() == PointsSummary(unchanged=2)
        assert desk.mdm.points == points, "network segments name it by its id"

    with_desk(tmp_path, test)


def test_who_has_left_is_known_after_the_word_of_it_is_buried(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(remove=False)
        desk.network.add("zurich")
        await desk.run()
        desk.network.leave("zurich")
        await desk.run()
        desk.network.tombstones.clear()
        desk.configure(remove=True)
        assert (await desk.run()).removed == 1

    with_desk(tmp_path, test)


def test_it_is_left_if_the_settings_say_so(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(remove=False)
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        desk.network.leave("zurich")
        await desk.run()
        assert len(desk.mdm.points) == 2
        assert (await desk.row("zurich"))["state"] == "left"
        desk.configure(remove=True)
        assert (await desk.run()).removed == 1

    with_desk(tmp_path, test)


def test_a_node_that_knows_no_nodes_removes_nothing(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        await desk.run()
        desk.network.nodes.clear()
        assert await desk.run() == PointsSummary()
        assert len(desk.mdm.points) == 1

    with_desk(tmp_path, test)


def test_a_deleted_record_is_made_again_once_for_each_change(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        await desk.run()
        desk.mdm.points.clear()
        assert await desk.look() == PointsSummary(missing=1), "one list is no proof"
        assert await desk.run() == PointsSummary(written=1)
        desk.mdm.points.clear()
        assert await desk.look() == PointsSummary(missing=1)
        for _ in range(3):
            assert await desk.look() == PointsSummary(unchanged=1)
        assert desk.mdm.points == {}
        row = await desk.row("zurich")
        assert row["state"] == "deleted"
        assert "was deleted in Jamf" in row["error"]
        desk.network.add("zurich", context="/ods")
        assert await desk.run() == PointsSummary(written=1)
        assert (await desk.row("zurich"))["error"] == ""

    with_desk(tmp_path, test)


def test_a_list_that_is_empty_for_a_while_makes_no_second_record(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for name in ("zurich", "bern"):
            desk.network.add(name)
        await desk.run()
        real = desk.mdm.list_distribution_points

        async def empty() -> list[Any]:
            return []

        desk.mdm.list_distribution_points = empty  # type: ignore[method-assign]
        for _ in range(4):
            assert await desk.look() == PointsSummary(unchanged=2)
        desk.network.add("bern", url="https://other.example.com")
        assert (await desk.look()).written == 1
        desk.mdm.list_distribution_points = real  # type: ignore[method-assign]
        assert await desk.look() == PointsSummary(unchanged=2)
        assert desk.names() == ["ODS - bern", "ODS - zurich"]

    with_desk(tmp_path, test)


def test_the_record_of_a_node_that_left_is_not_forgotten_because_one_list_lacks_it(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        row = await desk.row("zurich")
        kept = desk.mdm.points.pop(row["remote_id"])
        desk.network.leave("zurich")
        assert await desk.run() == PointsSummary(unchanged=1, missing=1)
        desk.mdm.points[row["remote_id"]] = kept
        assert await desk.run() == PointsSummary(unchanged=1, removed=1)
        assert desk.names() == ["ODS - bern"]

    with_desk(tmp_path, test)


def test_a_record_that_is_another_one_by_now_is_not_removed(tmp_path: Path) -> None:
    """After the MDM was restored from a backup an id may be somebody else's."""

    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")
        await desk.run()
        row = await desk.row("zurich")
        desk.mdm.points[row["remote_id"]].update(name="Headquarters", serverName="hq.example.com")
        desk.network.leave("zurich")
        assert (await desk.run()).removed == 0
        assert row["remote_id"] in desk.mdm.points
        assert "another one" in (await desk.row("zurich"))["error"]

    with_desk(tmp_path, test)


def test_two_nodes_of_one_name(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(name="ODS")
        desk.network.add("zurich")
        desk.network.add("bern")
        assert await desk.run() == PointsSummary(written=1, conflicts=1)
        assert len(desk.mdm.points) == 1
        assert await desk.look() == PointsSummary(unchanged=1, conflicts=1)
        desk.configure(name="ODS {{ id[0] }}")
        assert await desk.run() == PointsSummary(written=2)

    with_desk(tmp_path, test)


@pytest.mark.parametrize("moment", ["point", "pointed"])
def test_a_kill_around_the_creation_leaves_one_record_of_ours(tmp_path: Path, moment: str) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")

        def fault(call: str, _about: str) -> None:
            if call == moment:
                raise Killed

        desk.mdm.fault = fault
        with pytest.raises(BaseExceptionGroup):
            await desk.run()
        desk.mdm.fault = lambda _call, _about: None
        desk.restart()
        await desk.run()
        assert desk.names() == ["ODS - zurich"]
        row = await desk.row("zurich")
        assert (row["state"], row["ours"], row["absent"]) == ("mirrored", True, False)

    with_desk(tmp_path, test)


@pytest.mark.parametrize("lost", [True, False])
def test_a_refusal_after_a_lost_answer_does_not_make_our_record_a_persons(tmp_path: Path, lost: bool) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")

        def no_answer(call: str, _about: str) -> None:
            if call == ("pointed" if lost else "point"):
                raise MdmUnreachable("no answer")

        def exists(call: str, _about: str) -> None:
            if call == "point":
                raise MdmRefused("DUPLICATE_FIELD")

        if lost:
            desk.mdm.fault = no_answer
            with pytest.raises(MdmUnreachable):
                await desk.run()
        else:
            desk.by_hand(name="ODS - zurich", serverName="zurich.example.com", httpsPort=8440)
        there = dict(desk.mdm.points)
        desk.mdm.points.clear()  # the list lags behind
        desk.mdm.fault = exists
        for _ in range(2):
            assert await desk.run() == PointsSummary(failed=1)
            desk.clock.ms += AFTER_FAULT_MS
        desk.mdm.points |= there
        desk.mdm.fault = lambda _call, _about: None
        await desk.run()
        row = await desk.row("zurich")
        assert (row["state"], row["ours"], row["absent"]) == ("mirrored", lost, False)
        assert desk.names() == ["ODS - zurich"]

    with_desk(tmp_path, test)


@pytest.mark.parametrize("error", [MdmUnreachable, MdmNeedsAttention])
def test_an_error_of_the_server_ends_the_run(tmp_path: Path, error: type[MdmError]) -> None:
    async def test(desk: Desk) -> None:
        for name in ("zurich", "bern", "geneva"):
            desk.network.add(name)

        def fault(call: str, about: str) -> None:
            if call == "point" and "geneva" in about:
                raise error("not now")

        desk.mdm.fault = fault
        with pytest.raises(error):
            await desk.run()
        desk.mdm.fault = lambda _call, _about: None
        await desk.run()
        assert len(desk.names()) == 3

    with_desk(tmp_path, test)


def test_a_refusal_concerns_one_node_and_is_tried_again_later(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        desk.network.add("bern")

        def fault(call: str, about: str) -> None:
            if call == "point" and "bern" in about:
                raise MdmRefused("INVALID_FIELD serverName")

        desk.mdm.fault = fault
        assert await desk.run() == PointsSummary(written=1, failed=1)
        assert (await desk.row("bern"))["error"] == "INVALID_FIELD serverName"
        desk.mdm.calls.clear()
        assert await desk.run() == PointsSummary(unchanged=1, failed=1)
        assert desk.mdm.calls == []
        desk.mdm.fault = lambda _call, _about: None
        desk.clock.ms += AFTER_FAULT_MS
        assert await desk.run() == PointsSummary(written=1, unchanged=1)

    with_desk(tmp_path, test)


def test_a_name_that_cannot_be_made_fails_every_node_and_says_why(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(name="{{ name / 2 }}")
        desk.network.add("zurich")
        assert await desk.run() == PointsSummary(failed=1)
        assert "unsupported operand" in (await desk.row("zurich"))["error"]
        assert desk.mdm.points == {}

    with_desk(tmp_path, test)


def test_after_a_restart_one_listing_is_enough(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich")
        await desk.run()
        desk.restart()
        desk.mdm.calls.clear()
        assert await desk.run() == PointsSummary(unchanged=1)
        assert desk.mdm.calls == ["points"]

    with_desk(tmp_path, test)


def test_segments_are_looked_at_and_never_written(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.network.add("zurich", url="https://10.1.2.3")
        desk.by_hand(name="Old share", serverName="x")
        desk.mdm.network_segments = [
            {"name": "served", "start": "10.0.0.1", "end": "10.0.0.9", "distribution_point": "Old share"},
            {"name": "bare", "start": "10.1.0.0", "end": "10.1.255.255", "distribution_point": ""},
            {"name": "stale", "start": "10.2.0.0", "end": "bad", "distribution_point": "Gone"},
        ]
        found = await desk.points.suggest_segments(desk.server, desk.mdm)
        assert [(one["name"], one["suggestion"]) for one in found] == [
            ("bare", "It has no distribution point. Within it is: ODS - zurich."),
            ("stale", 'There is no distribution point "Gone".'),
        ]
        assert sorted(desk.mdm.calls) == ["points", "segments"]
        desk.mdm.network_segments = []
        desk.mdm.calls.clear()
        assert await desk.points.suggest_segments(desk.server, desk.mdm) == []
        assert desk.mdm.calls == ["segments"]

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("url", "record", "same"),
    [
        ("https://a.example.com", {"serverName": "A.example.com", "httpsPort": 443, "port": 139}, True),
        ("https://a.example.com:8440", {"serverName": "a.example.com", "httpsPort": "8440"}, True),
        ("http://a.example.com", {"ip_address": "a.example.com", "port": 80}, True),
        ("https://a.example.com", {"serverName": "a.example.com", "port": 139}, False),
        ("https://a.example.com", {"serverName": "b.example.com", "httpsPort": 443}, False),
        ("https://a.example.com:99999", {"serverName": "a.example.com", "httpsPort": 443}, False),
        ("nonsense", {}, False),
    ],
)
def test_places(url: str, record: dict[str, Any], same: bool) -> None:
    assert same_place(url, record) is same


def test_who_is_the_principal() -> None:
    assert is_principal({"principal": True})
    assert is_principal({"is_master": "true"})
    assert not is_principal({"principal": False, "is_master": None})
    assert not is_principal({})


def test_the_mark_of_a_record_follows_all_that_it_says() -> None:
    node = NodeBody(name="zurich", url="https://a.example.com", stage="prod", version="1")
    config = ServerConfig(name="Jamf", kind="fake").points
    facts = node_facts("n" * 52, node, config)
    others = [
        replace(facts, url="https://b.example.com"),
        replace(facts, context="/x"),
        replace(facts, record_name="x"),
        replace(facts, username="u"),
        replace(facts, password="p"),
        replace(facts, failover=False),
    ]
    assert len({facts_mark(one) for one in [facts, *others]}) == 7
    assert "hunter2" not in repr(NodeFacts(id="i", name="n", url="u", password="hunter2"))
