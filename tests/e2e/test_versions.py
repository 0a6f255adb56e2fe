"""Earlier versions across a network: what a slip of the hand takes away at one node, another one gives back."""

from pathlib import Path
from typing import Any

import pytest

from appliance.peering.records import parse_record
from tests.builders import MIB, File, make_file
from tests.fakes.peer import FakePeer, Lie
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.node import ApiError


def versions(node: NodeProcess, name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = node.api("GET", f"/packages/{name}/versions")["items"]
    return items


def restore(node: NodeProcess, name: str, version: str = "") -> dict[str, Any]:
    """Restore a version, and wait for the job's end."""
    answer = node.api("POST", f"/packages/{name}/restore", {"version": version})

    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = node.api("GET", f"/jobs/{answer['job']['id']}")
        return job if job["state"] not in {"todo", "doing"} else None

    job = eventually(ended, 60, "the job does not end")
    assert job is not None
    return job


def blobs(node: NodeProcess) -> set[str]:
    return {name.rpartition("/")[2] for name in node.files("blobs")}


def hurry(node: NodeProcess, job: str) -> None:
    """Have a job that waits run now; one that runs at this moment, or is done, is refused."""
    try:
        node.api("POST", f"/jobs/{job}/prioritize")
    except ApiError as exc:
        if exc.status != 409:
            raise


def fetched(node: NodeProcess) -> float:
    return node.metric("ods_fetched_bytes_total")


def gone(node: NodeProcess, name: str) -> None:
    eventually(lambda: node.head(name).status == 410, 30, f"{node.name} serves {name} still")


def test_what_one_node_withdraws_another_restores_everywhere_without_a_transfer(
    any_network: Network, tmp_path: Path
) -> None:
    a, b, c = any_network.chain("a", "b", "c")
    one, two = (
        make_file(tmp_path / "1" / "X.pkg", 70 * MIB, 1),
        make_file(tmp_path / "2" / "X.pkg", 2 * MIB, 2),
    )
    a.publish(one.path, notes="one")
    for node in (b, c):
        node.wait_holds("X.pkg", one.sha256)
    a.publish(two.path, replace="true", notes="two")
    for node in (b, c):
        node.wait_holds("X.pkg", two.sha256)
    a.api("DELETE", "/packages/X.pkg")
    for node in (a, b, c):
        gone(node, "X.pkg")
        assert [(each["sha256"], each["why"]) for each in versions(node, "X.pkg")] == [
            (two.sha256, "withdrawn"), (one.sha256, "replaced"),
        ]  # fmt: skip
        assert blobs(node) == {one.sha256, two.sha256}
        assert node.files("public/Packages") == []

    before = [fetched(node) for node in (a, b, c)]
    assert restore(c, "X.pkg")["state"] == "done"
    for node in (a, b, c):
        node.wait_holds("X.pkg", two.sha256)
    # The replaced one after it, at the third node; it has more chunks than a record carries.
    assert restore(b, "X.pkg", one.sha256[:10])["state"] == "done"
    for node in (a, b, c):
        node.wait_holds("X.pkg", one.sha256)
        assert node.sha1("X.pkg") == one.sha1
        package = node.package("X.pkg")
        assert package is not None
        assert (package["notes"], package["author"], package["uploaded_by"]) == ("one", b.id, "admin")
        assert [each["sha256"] for each in versions(node, "X.pkg")] == [one.sha256, two.sha256]
        assert len(node.events("package.restored")) == (0 if node is a else 1)
    assert [fetched(node) for node in (a, b, c)] == before, "the bytes were everywhere"
    # A node that lost its own copy fetches it from the others.
    assert c.metric("ods_trash_versions") == 1
    with pytest.raises(ApiError) as caught:
        restore(c, "X.pkg", one.sha256)
    assert (caught.value.status, caught.value.problem["code"]) == (409, "conflict")


def test_a_node_without_the_bytes_fetches_them_and_one_that_kept_none_says_what_to_do(
    network: Network, tmp_path: Path
) -> None:
    a = network.node("a")
    b = network.node("b", PACKAGES_KEEP_DAYS="0")
    b.join(a)
    file = make_file(tmp_path / "X.pkg", 3 * MIB)
    a.publish(file.path)
    b.wait_holds("X.pkg", file.sha256)
    b.api("DELETE", "/packages/X.pkg")
    gone(a, "X.pkg")
    eventually(lambda: blobs(b) == set(), 20, "b keeps the bytes")
    with pytest.raises(ApiError) as caught:
        restore(b, "X.pkg")
    assert (caught.value.status, caught.value.problem["code"]) == (404, "version_unknown")
    assert "Another node may: run `ods package versions` there. Else upload" in caught.value.problem["detail"]
    assert restore(a, "X.pkg")["state"] == "done"
    b.wait_holds("X.pkg", file.sha256)
    assert b.sha1("X.pkg") == file.sha1


def test_rotten_bytes_in_the_trash_are_refused_and_another_node_restores(
    network: Network, tmp_path: Path
) -> None:
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "X.pkg", 3 * MIB)
    a.publish(file.path)
    b.wait_holds("X.pkg", file.sha256)
    a.api("DELETE", "/packages/X.pkg")
    gone(b, "X.pkg")
    with a.layout.blob(file.sha256).open("r+b") as blob:
        blob.seek(2 * MIB)
        byte = blob.read(1)[0]
        blob.seek(2 * MIB)
        blob.write(bytes([byte ^ 1]))
    job = restore(a, "X.pkg")
    assert job["state"] == "failed"
    assert "damaged" in job["error"]
    assert "another node that keeps it, or upload the file again" in job["error"]
    assert a.head("X.pkg").status == 410
    assert a.files("quarantine") == [file.sha256]
    assert restore(b, "X.pkg")["state"] == "done"
    a.wait_holds("X.pkg", file.sha256)  # fetched: what is in quarantine gives its good chunks only
    assert a.sha1("X.pkg") == file.sha1


def test_a_kill_and_a_restart_lose_no_version(any_network: Network, tmp_path: Path) -> None:
    node = any_network.node("a")
    files: list[File] = []
    for number in range(4):
        files.append(make_file(tmp_path / str(number) / "X.pkg", MIB, number))
        node.publish(files[-1].path, replace="true")
        node.kill9()
        node.start()
    kept = [file.sha256 for file in files[:0:-1]]
    assert [each["sha256"] for each in versions(node, "X.pkg")] == kept
    assert blobs(node) == set(kept)
    assert restore(node, "X.pkg", kept[2][:6])["state"] == "done"
    assert node.sha1("X.pkg") == files[1].sha1
    # Turned off, a start empties it.
    node.stop()
    node.settings["PACKAGES_KEEP_VERSIONS"] = "0"
    node.start()
    assert blobs(node) == {files[1].sha256}
    assert [each["current"] for each in versions(node, "X.pkg")] == [True]


def test_workers_beside_the_serving_process_restore_too(any_network: Network, tmp_path: Path) -> None:
    node = any_network.node("a", WORKER_EMBEDDED="false")
    with workers(node, 2):
        one, two = make_file(tmp_path / "1" / "X.pkg", MIB, 1), make_file(tmp_path / "2" / "X.pkg", MIB, 2)
        node.publish(one.path)
        node.publish(two.path, replace="true")
        assert restore(node, "X.pkg")["state"] == "done", node.tail()
        node.wait_holds("X.pkg", one.sha256)
        assert node.sha1("X.pkg") == one.sha1
        assert blobs(node) == {one.sha256, two.sha256}


def test_a_copy_is_released_only_when_the_other_holder_proves_that_it_has_the_file(
    any_network: Network, tmp_path: Path
) -> None:
    node = any_network.node("a", NODE_STAGE="prod")
    file = make_file(tmp_path / "X.pkg", 3 * MIB)
    node.publish(file.path, stage="dev")
    with FakePeer("Berlin", stage="dev") as berlin:
        berlin.join(node.invite())
        known = berlin.client(node.url, node.id).package(node.package("X.pkg")["id"])  # type: ignore[index]
        # It says that it holds the file, and has other bytes.
        berlin.hold("X.pkg", file.path.read_bytes(), package=parse_record(known))
        berlin.lie = Lie.FLIPPED_BIT

        def reason() -> str:
            package = node.package("X.pkg")
            assert package is not None
            assert package["presence"] == "held"
            return str(package["reason"])

        eventually(lambda: "proves that it has the file (Berlin: " in reason(), 30, reason)
        assert "kept until Berlin proves" in reason()
        assert node.sha1("X.pkg") == file.sha1

        def waiting() -> dict[str, Any] | None:
            [found] = node.api("GET", "/jobs?name=package.release_check")["items"]
            return found if found["state"] == "todo" else None

        job = eventually(waiting, 30, "it is looked at again")
        assert job is not None
        assert job["run_at"] > job["updated_at"]
        asked = sum(request.path.endswith("/proof") for request in berlin.asked)
        assert asked <= job["attempts"], "once for each try, and tries are further and further apart"
        eventually(
            lambda: 1 <= asked <= node.api("GET", f"/peers/{berlin.id}")["strikes"], 10, "no strike for a lie"
        )
        assert any(request.path.endswith("/complaints") for request in berlin.asked), "it is not told"
        records = len(node.api("GET", "/events?limit=500")["items"])

        berlin.lie = None
        hurry(node, job["id"])
        eventually(lambda: "not believed for now" in reason(), 30, reason)
        node.api("DELETE", f"/peers/{berlin.id}")  # who is registered anew begins without strikes
        berlin.join(node.invite())

        def released() -> bool:
            hurry(node, job["id"])
            package = node.package("X.pkg")
            return package is not None and package["presence"] == "not_admitted"

        eventually(released, 30, "a copy that is safe elsewhere is not released")
        eventually(lambda: blobs(node) == set(), 10, "it stays on the disk")
        assert versions(node, "X.pkg")[1:] == [], "that is no deletion by a person"
        assert len(node.api("GET", "/events?limit=500")["items"]) > records
        assert len(node.events("package.released")) == 1


def test_a_new_stage_on_all_nodes_at_once_deletes_no_copy(any_network: Network, tmp_path: Path) -> None:
    """Each knows the others' old stages from their records, in which they admit the package and hold it."""
    nodes = [any_network.node(name, NODE_STAGE="test") for name in "abc"]
    for joiner in nodes[1:]:
        joiner.join(nodes[0])
    file = make_file(tmp_path / "X.pkg", 2 * MIB)
    nodes[0].publish(file.path, stage="test")
    for node in nodes:
        node.wait_holds("X.pkg", file.sha256)
    for node in nodes:
        node.stop()
        node.settings["NODE_STAGE"] = "prod"
    for node in nodes:
        node.start()

    def told(node: NodeProcess) -> bool:
        """Whether it knows that none of them admits it any more, or was refused a proof."""
        package = node.package("X.pkg")
        assert package is not None
        return "kept until" in str(package["reason"])

    for node in nodes:
        eventually(lambda node=node: told(node), 40, node.tail)
        assert node.sha1("X.pkg") == file.sha1
    nodes[1].api("PATCH", "/packages/X.pkg", {"stage": "prod"})
    for node in nodes:
        node.wait_holds("X.pkg", file.sha256)


def test_holders_whose_files_are_gone_do_not_stand_for_a_copy(any_network: Network, tmp_path: Path) -> None:
    a = any_network.node("a", NODE_STAGE="prod")
    others = [any_network.node(name, NODE_STAGE="test") for name in "bc"]
    for other in others:
        other.join(a)
    file = make_file(tmp_path / "X.pkg", 2 * MIB)
    a.publish(file.path)
    for other in others:
        other.wait_holds("X.pkg", file.sha256)
        for path in other.layout.blobs.rglob(file.sha256):
            path.unlink()
    a.api("PATCH", "/packages/X.pkg", {"stage": "test"})
    for other in others:
        other.wait_holds("X.pkg", file.sha256)
        eventually(lambda other=other: file.sha256 in blobs(other), 40, other.tail)
    eventually(lambda: a.presence("X.pkg") == "not_admitted", 60, a.tail)


def test_a_copy_stays_where_nobody_can_prove_anything(network: Network, tmp_path: Path) -> None:
    """A at stage dev, B to D at stage prod in a chain: B asks A, C asks A through B, D cannot."""
    a = network.node("a", NODE_STAGE="dev")
    b, c, d = (network.node(name, NODE_STAGE="prod") for name in "bcd")
    for joiner, inviter in ((b, a), (c, b), (d, c)):
        joiner.join(inviter)
    file = make_file(tmp_path / "X.pkg", 2 * MIB)
    a.publish(file.path)
    for node in (b, c, d):
        node.wait_holds("X.pkg", file.sha256)
    a.api("PATCH", "/packages/X.pkg", {"stage": "dev"})
    for node in (b, c):
        eventually(lambda node=node: node.presence("X.pkg") == "not_admitted", 40, f"{node.name} keeps it")

    def said() -> str:
        package = d.package("X.pkg")
        assert package is not None
        assert package["presence"] == "held"
        return str(package["reason"])

    eventually(lambda: "kept until a proves that it has the file" in said(), 30, said)
    eventually(lambda: "Join the two nodes" in said(), 30, said)
    d.join(a)
    [job] = d.api("GET", "/jobs?name=package.release_check&state=todo")["items"]
    hurry(d, job["id"])
    eventually(lambda: d.presence("X.pkg") == "not_admitted", 30, "it is not released")
    assert a.sha1("X.pkg") == file.sha1
