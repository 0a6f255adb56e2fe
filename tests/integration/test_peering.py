"""Registration, replication from peers that lie, and leaving: one real node, and peers that the test plays."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import PeerRefused
from appliance.peering.invite import Invite, parse_invite
from tests.builders import MIB, manifest_of
from tests.fakes.peer import FakePeer, Lie, fake_peers, now_ms
from tests.harness import NodeProcess, eventually
from tests.harness.node import ApiError


@pytest.fixture(scope="module")
def node(one_node: NodeProcess) -> NodeProcess:
    return one_node


@pytest.fixture
def peer(node: NodeProcess) -> Iterator[FakePeer]:
    """A peer that is not registered yet; it is removed afterwards if it was."""
    with FakePeer("one") as made:
        yield made
        forget(node, made)


def forget(node: NodeProcess, peer: FakePeer) -> None:
    peer.lie = None
    if peer.id in peers(node):
        node.api("DELETE", f"/peers/{peer.id}")


def peers(node: NodeProcess) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in node.api("GET", "/peers")["items"]}


def events(node: NodeProcess, type: str, subject: str) -> list[dict[str, Any]]:
    return [event for event in node.events(type) if event["subject"] == subject]


# Joining a node


def test_an_honest_peer_is_a_source_and_every_request_to_it_is_signed(
    node: NodeProcess, peer: FakePeer
) -> None:
    data = random.Random(1).randbytes(9 * MIB + 5)
    peer.hold("Honest.pkg", data)
    peer.join(node.invite())
    node.wait_holds("Honest.pkg", manifest_of(data).sha256)
    assert peer.faults() == []
    asked = {(one.method, one.path.rsplit("/", 1)[-1]) for one in peer.asked}
    assert {("GET", "node"), ("GET", "changes"), ("GET", "manifest"), ("GET", "content")} <= asked
    assert {one.range for one in peer.contents()} == {
        f"bytes=0-{8 * MIB - 1}",
        f"bytes={8 * MIB}-{len(data) - 1}",
    }
    assert peers(node)[peer.id]["state"] == "active"
    assert len(events(node, "peer.joined", peer.id)) == 1


def test_a_retry_is_not_a_second_registration(node: NodeProcess, peer: FakePeer) -> None:
    text = node.invite()
    peer.join(text)
    peer.join(text)
    peer.join(node.invite())
    assert len(events(node, "peer.joined", peer.id)) == 1


def test_a_removed_peer_cannot_come_back_with_its_old_invite(node: NodeProcess, peer: FakePeer) -> None:
    text = node.invite()
    peer.join(text)
    node.api("DELETE", f"/peers/{peer.id}")
    with pytest.raises(PeerRefused, match="already used"):
        peer.join(text)
    assert peer.id not in peers(node)
    peer.join(node.invite())
    assert peers(node)[peer.id]["state"] == "active"


def test_a_revoked_invite(node: NodeProcess, peer: FakePeer) -> None:
    text = node.invite()
    node.api("DELETE", f"/peers/invites/{parse_invite(text).id}")
    with pytest.raises(PeerRefused, match="invite_refused"):
        peer.join(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/\r\nX: y",
        "ftp://127.0.0.1",
        "http://user@127.0.0.1",
        "http://127.0.0.1/a/../b",
        "",
    ],
)
def test_a_peer_with_a_url_that_is_none_is_refused(node: NodeProcess, peer: FakePeer, url: str) -> None:
    peer.url = url
    with pytest.raises(PeerRefused, match=r"URL|node URL"):
        peer.join(node.invite())
    assert peer.id not in peers(node)


def test_a_peer_cannot_move_to_a_url_that_is_none(node: NodeProcess, peer: FakePeer) -> None:
    peer.join(node.invite())
    url = peers(node)[peer.id]["url"]
    moved = peer.record(url="http://127.0.0.1:1/ HTTP/1.1\r\nHost: x")
    from appliance.peering.records import record_json

    peer.feed.append({**record_json(moved)})
    peer.client(node.url, node.id).announce([])
    eventually(lambda: "URL" in peers(node)[peer.id]["last_strike"], 20)
    assert peers(node)[peer.id]["url"] == url


# Being joined by a node


def test_a_node_joins(node: NodeProcess, peer: FakePeer) -> None:
    text = peer.invite()
    shown = node.api("POST", "/peers/join", {"invite": text})
    assert (shown["id"], shown["state"], shown["name"]) == (peer.id, "active", "one")
    assert node.api("POST", "/peers/join", {"invite": text})["state"] == "active", "again: no harm"


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (Lie.WRONG_PROOF, "does not prove"),
        (Lie.OTHER_RECORD, "another node"),
        (Lie.REDIRECT, "redirects"),
    ],
)
def test_an_inviter_that_lies_is_not_kept(node: NodeProcess, peer: FakePeer, lie: Lie, reason: str) -> None:
    peer.lie = lie
    with pytest.raises(ApiError, match=reason) as caught:
        node.api("POST", "/peers/join", {"invite": peer.invite()})
    assert caught.value.status == 502
    assert peer.id not in peers(node)


def test_invites_that_cannot_be_used(node: NodeProcess, peer: FakePeer) -> None:
    invite = parse_invite(peer.invite())
    fields = {name: getattr(invite, name) for name in Invite.__slots__}
    expired = Invite(**{**fields, "expires_at": now_ms() - 1}).text()
    for text, code in (
        (expired, "invite_refused"),
        (node.invite(), "invite_refused"),
        ("x", "invalid_input"),
    ):
        with pytest.raises(ApiError) as caught:
            node.api("POST", "/peers/join", {"invite": text})
        assert caught.value.problem["code"] == code
    assert peer.asked == []


# Peers that lie


@pytest.mark.parametrize(
    ("lie", "struck"),
    [
        (Lie.FLIPPED_BIT, "does not match the manifest"),
        (Lie.SHORT, "another range"),
        (Lie.ENDLESS, "another range"),
        (Lie.OTHER_RANGE, "another range"),
        (Lie.WHOLE_FILE, ""),
        (Lie.WRONG_MANIFEST, "manifest does not match"),
        (Lie.CUT, ""),
        (Lie.BUSY, ""),
    ],
)
def test_the_package_arrives_from_an_honest_peer(node: NodeProcess, lie: Lie, struck: str) -> None:
    data = random.Random(str(lie)).randbytes(3 * MIB + 7)
    name = f"{lie.name}.pkg"
    with fake_peers("liar", "honest") as (liar, honest):
        liar.lie = lie
        record = liar.hold(name, data)
        liar.join(node.invite())
        last = "manifest" if lie is Lie.WRONG_MANIFEST else "content"
        eventually(lambda: [one for one in liar.asked if one.path.endswith(last)], 20, "it is not asked")
        if struck:
            eventually(lambda: struck in peers(node)[liar.id]["last_strike"], 20, "no strike is counted")
            eventually(lambda: events(node, "peer.struck", liar.id), 20, "no event")
        assert node.head(name).status == 503, "nothing of it is served"
        honest.hold(name, data, package=record)
        honest.join(node.invite())
        node.wait_holds(name, manifest_of(data).sha256)
        if lie in {Lie.CUT, Lie.BUSY}:
            assert peers(node)[liar.id]["strikes"] == 0, "that is bad luck, no lie"
        assert peers(node)[honest.id]["strikes"] == 0
        for one in (liar, honest):
            forget(node, one)


@pytest.mark.parametrize("lie", [Lie.HUGE_ANSWER, Lie.BOMB, Lie.NOT_JSON, Lie.REDIRECT])
def test_a_feed_that_is_none_costs_little_and_shows(node: NodeProcess, peer: FakePeer, lie: Lie) -> None:
    peer.join(node.invite())
    before = node.rss_peak()
    peer.lie = lie
    peer.client(node.url, node.id).announce([])
    struck = lie not in {Lie.NOT_JSON, Lie.REDIRECT}  # those can be of a proxy in between: it was not reached
    shown = eventually(
        lambda: (one := peers(node)[peer.id])["last_error"] and (one["strikes"] or not struck) and one,
        30,
        "it does not show",
    )
    assert bool(shown["strikes"]) == struck
    assert not shown["healthy"]
    assert shown["retry_at"]
    assert node.rss_peak() - before < 130 * MIB
    assert node.status("/health/live") == 200
    peer.lie = None
    data = random.Random(lie.value).randbytes(100)
    peer.hold(f"After {lie.name}.pkg", data)
    peer.client(node.url, node.id).announce([])
    node.wait_holds(f"After {lie.name}.pkg", manifest_of(data).sha256)
    assert peers(node)[peer.id]["healthy"], "any sign of life clears the back-off"


@pytest.mark.parametrize("lie", [Lie.NEW_FEEDS, Lie.NO_END, Lie.NOTHING_BEHIND])
def test_a_feed_that_would_be_read_for_ever_is_left_and_shows(
    node: NodeProcess, peer: FakePeer, lie: Lie
) -> None:
    peer.join(node.invite())
    eventually(lambda: [one for one in peer.asked if one.path.endswith("/changes")], 20)
    peer.lie = lie
    asked = len(peer.asked)
    peer.client(node.url, node.id).announce([])
    shown = eventually(lambda: (one := peers(node)[peer.id])["strikes"] and one, 30, "no strike")
    assert "feed" in shown["last_strike"]
    assert shown["retry_at"], "it is left alone for a while"
    assert len(peer.asked) - asked < 100
    peer.lie = None
    data = random.Random(lie.value).randbytes(100)
    peer.hold(f"After {lie.name}.pkg", data)
    peer.client(node.url, node.id).announce([])
    node.wait_holds(f"After {lie.name}.pkg", manifest_of(data).sha256)


# Leaving


def test_a_removed_peer_is_told(node: NodeProcess, peer: FakePeer) -> None:
    peer.join(node.invite())
    node.api("DELETE", f"/peers/{peer.id}")
    assert peer.left == [node.id]
    assert peer.faults() == []
    assert peer.id not in peers(node)
    assert [event["data"]["removed_here"] for event in events(node, "peer.left", peer.id)] == [True]
    with pytest.raises(PeerRefused, match="peer_unknown"):
        peer.client(node.url, node.id).node()


def test_a_peer_that_cannot_be_told_is_removed_all_the_same(node: NodeProcess) -> None:
    gone = FakePeer("gone")
    gone.join(node.invite())
    gone.close()
    began = time.monotonic()
    node.api("DELETE", f"/peers/{gone.id}")
    assert time.monotonic() - began < 10
    assert gone.id not in peers(node)
    assert any(line["peer"] == gone.id for line in node.lines("leave_untold"))


def test_a_peer_leaves(node: NodeProcess, peer: FakePeer) -> None:
    peer.join(node.invite())
    peer.client(node.url, node.id).leave()
    assert peer.id not in peers(node)
    assert [event["data"]["removed_here"] for event in events(node, "peer.left", peer.id)] == [False]


def test_registrations_survive_a_restart(node: NodeProcess, peer: FakePeer, tmp_path: Path) -> None:
    peer.join(node.invite())
    node.restart()
    assert peers(node)[peer.id]["state"] == "active"
    assert peer.client(node.url, node.id).node().id == node.id


def test_nothing_went_wrong_inside(node: NodeProcess) -> None:
    failures = list(node.lines("request_failed"))
    assert failures == [], failures[0].get("exception", failures[0])
    assert "Traceback" not in node.log_text()
