"""Peers that send what they should not: refused, counted, visible, and the package arrives from an honest one.

The liar is a real node behind a proxy that meddles with its answers.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.peering.identity import Identity
from appliance.peering.records import record_json, sign_record
from appliance.peering.signing import sign_request
from tests.builders import MIB, File, make_file
from tests.fakes.proxy import Meddler, Reply, Request, cut_after, endless, flip_bit, other_size
from tests.harness import Network, NodeProcess, eventually
from tests.keys import identity_at


def honest_and_liar(network: Network, file: File) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """Two nodes that hold the file, both behind proxies, and one that is not registered yet."""
    liar, honest = network.node("liar", proxied=True), network.node("honest", proxied=True)
    honest.join(liar)
    liar.publish(file.path)
    honest.wait_holds(file.name, file.sha256)
    for proxy in network.proxies.values():
        proxy.requests.clear()
        proxy.sent = 0
    return liar, honest, network.node("b")


def test_a_flipped_bit_is_found_fetched_elsewhere_and_struck(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Thing.pkg", 40 * MIB)
    liar, honest, b = (
        network.node("liar", proxied=True),
        network.node("honest", proxied=True),
        network.node("b"),
    )
    honest.join(liar)
    b.join(honest)
    b.join(liar)
    b.stop()
    liar.publish(file.path)
    honest.wait_holds(file.name, file.sha256)
    eventually(
        lambda: all(
            [replica["presence"] for replica in (node.package(file.name) or {})["replicas"]]
            == ["held", "held"]
            for node in (liar, honest)
        ),
        20,
        "the two do not know of each other's replicas",
    )
    liars, honests = network.proxies["liar"], network.proxies["honest"]
    spoiled: list[int] = []
    flip = flip_bit()

    def meddle(request: Request, reply: Reply) -> None:
        before = reply.body
        flip(request, reply)
        if reply.body is not before:
            spoiled.append(request.chunks[0])

    liars.meddle = meddle
    honests.requests.clear()
    b.start()  # it learns of both sources at once
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1
    assert len(spoiled) == 1
    assert any(spoiled[0] in request.chunks for request in honests.contents()), (
        "the bad chunk was not fetched elsewhere"
    )
    peer = b.peer(liar)
    assert peer["strikes"] == 1
    assert f"Chunk {spoiled[0]} does not match" in peer["last_strike"]
    assert b.peer(honest)["strikes"] == 0
    event = b.events("peer.struck")[0]
    assert event["subject"] == liar.id
    assert b.metric("ods_chunk_failures_total", peer=liar.id, reason="chunk_invalid") == 1


def test_a_peer_that_always_lies_is_set_aside_and_the_rest_comes_from_another(
    network: Network, tmp_path: Path
) -> None:
    file = make_file(tmp_path / "Thing.pkg", 24 * MIB)
    liar, honest, b = honest_and_liar(network, file)
    network.proxies["liar"].meddle = flip_bit(17, times=1000)
    network.proxies["honest"].down()
    with pytest.raises(AssertionError):
        b.join(honest)
    b.join(liar)
    aside = eventually(lambda: b.peer(liar)["set_aside"], 30, "it is not set aside")
    assert [one["filename"] for one in aside] == [file.name]
    assert "Chunk 17 does not match" in aside[0]["reason"]
    assert b.peer(liar)["strikes"] >= 3
    assert b.head(file.name).status == 503
    transfer = eventually(
        lambda: next(iter(b.api("GET", "/transfers?state=stalled")["items"]), None), 30, "it is not stalled"
    )
    assert transfer["chunks_done"] == 17  # the run that begins with chunk 17 again and again
    assert "Chunk 17 does not match" in transfer["error"]
    network.proxies["honest"].up()
    b.join(honest)
    b.wait_holds(file.name, file.sha256)
    asked = {chunk for request in network.proxies["honest"].contents() for chunk in request.chunks}
    assert asked == set(range(17, 24))


@pytest.mark.parametrize("lie", [endless(), other_size()], ids=["endless", "other size"])
def test_contents_of_another_size_are_refused(network: Network, tmp_path: Path, lie: Meddler) -> None:
    file = make_file(tmp_path / "Thing.pkg", 20 * MIB)
    liar, honest, b = honest_and_liar(network, file)
    network.proxies["liar"].meddle = lie
    b.join(liar)
    eventually(lambda: b.peer(liar)["strikes"] > 0, 30, "no strike is counted")
    assert "another range than was asked for" in b.peer(liar)["last_strike"]
    b.join(honest)
    b.wait_holds(file.name, file.sha256)
    # It lets go at the headers: what was sent is what the buffers of a few connections hold.
    assert network.proxies["liar"].sent < 64 * MIB
    assert b.sha1(file.name) == file.sha1


def test_a_connection_that_breaks_is_no_lie(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Thing.pkg", 20 * MIB)
    liar, _, b = honest_and_liar(network, file)
    network.proxies["liar"].meddle = cut_after(MIB + 5, times=2)
    b.join(liar)
    b.wait_holds(file.name, file.sha256)
    assert b.peer(liar)["strikes"] == 0


def change_json(part: str, change: Callable[[Any], None]) -> Meddler:
    """Change the JSON of answers whose path ends so, before the query."""

    def meddle(request: Request, reply: Reply) -> None:
        if request.path.partition("?")[0].endswith(part) and reply.status == 200:
            data = json.loads(reply.text())
            change(data)
            reply.put(json.dumps(data).encode())

    return meddle


def wrong_manifest(data: Any) -> None:
    chunks = bytearray(base64.b64decode(data["chunks"]))
    chunks[5] ^= 1
    data["chunks"] = base64.b64encode(chunks).decode()


def test_a_manifest_that_does_not_match_the_record_is_refused(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Thing.pkg", 70 * MIB)  # more chunks than the record carries
    liar, honest, b = honest_and_liar(network, file)
    network.proxies["liar"].meddle = change_json("/manifest", wrong_manifest)
    b.join(liar)
    eventually(
        lambda: "manifest does not match" in b.peer(liar)["last_strike"],
        30,
        "no strike tells of the manifest",
    )
    assert network.proxies["liar"].contents() == []
    b.join(honest)
    b.wait_holds(file.name, file.sha256)


def forge_stage(data: Any) -> None:
    """Change a record without its author's key."""
    for record in data["records"]:
        if record["kind"] == "package":
            record["body"]["notes"] = "a lie"
            record["revision"] += 5


def test_a_record_that_was_changed_on_the_way_is_refused(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Thing.pkg", 2 * MIB)
    liar, honest, b = honest_and_liar(network, file)
    network.proxies["liar"].meddle = change_json("/changes", forge_stage)
    b.join(liar)
    eventually(lambda: b.peer(liar)["strikes"] > 0, 30, "no strike is counted")
    assert "was not signed by its author" in b.peer(liar)["last_strike"]
    b.join(honest)
    b.wait_holds(file.name, file.sha256)
    package = b.package(file.name)
    assert package is not None
    assert package["notes"] == ""


def test_a_record_in_the_name_of_another_node_is_refused(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Thing.pkg", 2 * MIB)
    liar, honest, b = honest_and_liar(network, file)
    stranger = Identity.generate()

    def forge(data: Any) -> None:
        """A stranger says, properly signed, that the honest node is called otherwise and lives elsewhere."""
        for record in [record for record in data["records"] if record["kind"] == "node"]:
            body = {**record["body"], "name": "stolen", "url": "http://127.0.0.1:9"}
            forged = sign_record(
                stranger, kind="node", id=honest.id, revision=99, at=record["at"], deleted=False, body=body
            )
            data["records"].append(record_json(forged))

    network.proxies["liar"].meddle = change_json("/changes", forge)
    b.join(honest)
    b.join(liar)
    eventually(lambda: b.peer(liar)["strikes"] > 0, 30, "no strike is counted")
    assert "stolen" not in json.dumps(b.api("GET", "/nodes"))
    b.wait_holds(file.name, file.sha256)
    assert b.peer(honest)["url"] == network.proxies["honest"].url


def replay(node: NodeProcess, request: Request) -> tuple[int, str]:
    """Send the very bytes of a request again."""
    headers = {
        name: value for name, value in request.headers.items() if name not in {"host", "content-length"}
    }
    body = request.raw[request.raw.index(b"\r\n\r\n") + 4 :]
    headers["Host"] = request.headers["host"]
    answer = node.request(request.method, request.path, body or None, headers, anonymous=True)
    return answer.status, answer.json().get("code", "") if answer.body else ""


def test_replayed_and_stale_requests_are_refused(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a", proxied=True), network.node("b", proxied=True)
    b.join(a)
    proxy = network.proxies["a"]
    b.publish(make_file(tmp_path / "x.pkg", MIB).path)
    told = eventually(
        lambda: next(
            (one for one in proxy.requests if one.path.endswith("/announcements") and one.status), None
        ),
        20,
        "b announces nothing",
    )
    read = next(one for one in proxy.requests if "/changes" in one.path and one.status == 200)
    assert replay(a, told) == (401, "request_replayed")
    assert replay(a, read) == (401, "request_replayed")
    assert a.metric("ods_peer_refusals_total", reason="request_replayed") == 2
    # A request that changes something is remembered over a restart.
    a.restart()
    assert replay(a, told) == (401, "request_replayed")

    identity = identity_at(b.layout.identity / "node.key")
    import time

    def ask(*, shift_s: int = 0, url: str = proxy.url, signer: Identity = identity) -> tuple[int, str]:
        headers = sign_request(
            signer, "GET", f"{url}/peer/v1/node", b"", now=lambda: int(time.time() * 1000) + shift_s * 1000
        )
        answer = a.request("GET", "/peer/v1/node", None, headers, anonymous=True)
        return answer.status, answer.json().get("code", "")

    assert ask() == (200, "")
    assert ask(shift_s=-120) == (401, "clock_skew")
    assert ask(shift_s=90) == (401, "clock_skew")
    assert ask(url=network.proxies["b"].url) == (401, "signature_invalid")  # made for another node
    assert ask(signer=Identity.generate()) == (401, "peer_unknown")
    answer = a.request("GET", "/peer/v1/node", None, {}, anonymous=True)
    assert (answer.status, answer.json()["code"]) == (401, "signature_missing")
