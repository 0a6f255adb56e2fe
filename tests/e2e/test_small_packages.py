"""Many small packages come several in one run, and each for itself: what goes wrong with one is its own."""

from pathlib import Path

from tests.builders import MIB, File, make_file
from tests.fakes.proxy import Reply, Request, cut_after
from tests.harness import Network, NodeProcess, eventually

SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 8 * MIB, 8 * MIB + 1]


def small_files(directory: Path, count: int) -> list[File]:
    return [make_file(directory / f"s{n:02}.pkg", SIZES[n % len(SIZES)], n) for n in range(count)]


def transfer(node: NodeProcess, name: str) -> dict[str, object]:
    found = node.api("GET", "/transfers?limit=200")["items"]
    return next((each for each in found if each["filename"] == name), {})


def test_one_that_cannot_come_holds_up_no_other(any_network: Network, tmp_path: Path) -> None:
    files = small_files(tmp_path, 24)
    bad = files[5]  # of three chunks
    source, b = any_network.node("source", proxied=True), any_network.node("b")
    for file in files:
        source.publish(file.path)
    id = source.package(bad.name)["id"]

    def refuse(request: Request, reply: Reply) -> None:
        if request.is_content and f"/{id}/" in request.path:
            reply.status = 404
            reply.put(b"{}")

    any_network.proxies["source"].meddle = refuse
    b.join(source)
    for file in files:
        if file is not bad:
            b.wait_holds(file.name, file.sha256)
    eventually(lambda: transfer(b, bad.name).get("state") == "stalled", 20, "the bad one is not stalled")
    assert b.presence(bad.name) == "arriving"
    assert "No source can give the 3 missing chunks" in str(transfer(b, bad.name)["error"])
    any_network.proxies["source"].meddle = lambda _request, _reply: None
    b.api("POST", f"/transfers/{transfer(b, bad.name)['id']}/retry")
    b.wait_holds(bad.name, bad.sha256)
    for file in files:
        assert b.sha1(file.name) == file.sha1


def test_all_come_when_their_source_is_back(network: Network, tmp_path: Path) -> None:
    files = small_files(tmp_path, 16)
    source, b = network.node("source", proxied=True), network.node("b")
    proxy = network.proxies["source"]
    for file in files:
        source.publish(file.path)

    proxy.meddle = cut_after(0, times=10_000)
    b.join(source)
    eventually(
        lambda: sum(t["state"] == "stalled" for t in b.api("GET", "/transfers?limit=200")["items"]) >= 14, 30
    )
    proxy.meddle = lambda _request, _reply: None
    for file in files:
        b.wait_holds(file.name, file.sha256)


def test_kill_9_while_they_come(network: Network, tmp_path: Path) -> None:
    files = small_files(tmp_path, 40)
    source, b = network.node("source", proxied=True), network.node("b")
    for file in files:
        source.publish(file.path)
    b.join(source)
    for count in (4, 12, 24):
        eventually(
            lambda count=count: b.api("GET", "/packages?presence=held&limit=1")["total"] >= count,
            60,
            "none comes",
        )
        b.kill9()
        b.start()
    for file in files:
        b.wait_holds(file.name, file.sha256)
        assert b.sha1(file.name) == file.sha1
    assert b.files("partial") == []
