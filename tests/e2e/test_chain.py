"""A chain A-B-C, C registered with B only: what happens to a package at A happens at C."""

from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.harness import Network, eventually
from tests.installers import Installers

SIZES = {
    "empty.pkg": 0,
    "one byte.pkg": 1,
    "one-chunk.pkg": MIB,
    "one-chunk-less.pkg": MIB - 1,
    "one-chunk-more.pkg": MIB + 1,
    "many-chunks.pkg": 37 * MIB + 12_345,
    "long-list.pkg": 70 * MIB + 1,  # more chunks than a record carries: the manifest is fetched
}


def test_a_package_its_replacement_and_its_withdrawal_reach_the_end_of_the_chain(
    any_network: Network, installers: Installers
) -> None:
    any_network.settings["PACKAGES_KEEP_DAYS"] = "0"  # what is replaced or withdrawn leaves the disk at once
    a, b, c = any_network.chain("a", "b", "c")
    first, second = installers.get(version="3.11.7"), installers.get(version="3.12.1")
    assert first.sha1 != second.sha1
    assert first.path.read_bytes()[:4] == b"xar!"

    published = a.publish(first.path, "Interpreter.pkg")
    assert (published["sha1"], published["size"]) == (first.sha1, first.size)
    for node in (b, c):
        node.wait_holds("Interpreter.pkg", first.sha256)
        assert node.sha1("Interpreter.pkg") == first.sha1
    assert {item["name"] for item in c.api("GET", "/nodes")["items"]} == {"a", "b", "c"}
    assert [item["name"] for item in c.api("GET", "/peers")["items"]] == ["b"]

    # The same package everywhere: one id, and every node knows who holds it.
    def all_hold() -> bool:
        packages = [node.package("Interpreter.pkg") or {} for node in (a, b, c)]
        assert len({package["id"] for package in packages}) == 1
        return all(
            {replica["name"] for replica in package["replicas"] if replica["presence"] == "held"}
            == {"a", "b", "c"}
            for package in packages
        )

    eventually(all_hold, 20, "not every node knows all replicas")

    replaced = a.upload(second.path, "Interpreter.pkg", replace="true")
    assert replaced.status == 200
    for node in (b, c):
        node.wait_holds("Interpreter.pkg", second.sha256)
        assert node.sha1("Interpreter.pkg") == second.sha1
    for node in (a, b, c):
        eventually(
            lambda node=node: len(node.files("blobs")) == 1, 20, f"{node.name} keeps the replaced bytes"
        )

    a.api("DELETE", "/packages/Interpreter.pkg")
    for node in (a, b, c):
        eventually(
            lambda node=node: node.head("Interpreter.pkg").status == 410, 20, f"{node.name} serves it still"
        )
        eventually(
            lambda node=node: not node.files("blobs") + node.files("public"), 20, f"{node.name} keeps bytes"
        )

    # A withdrawn name can be used again.
    a.publish(first.path, "Interpreter.pkg")
    c.wait_holds("Interpreter.pkg", first.sha256)


@pytest.mark.parametrize("portable", ["", "1"], ids=["linux", "portable"])
def test_files_of_all_sizes_arrive_whole(network: Network, tmp_path: Path, portable: str) -> None:
    network.settings["PORTABLE"] = portable
    a, b, c = network.chain("a", "b", "c")
    files = [make_file(tmp_path / name, size) for name, size in SIZES.items()]
    for file in files:
        a.publish(file.path)
    for file in files:
        c.wait_holds(file.name, file.sha256)
        for node in (a, b, c):
            assert node.sha1(file.name) == file.sha1, (node.name, file.name)
    for node in (b, c):
        eventually(lambda node=node: not node.files("partial"), 10, f"{node.name} keeps partial files")
        assert node.files("public/Packages") == sorted(SIZES)


def test_packages_of_before_the_registration_arrive_too(network: Network, tmp_path: Path) -> None:
    a = network.node("a")
    old = [make_file(tmp_path / f"old-{number}.pkg", 2 * MIB, number) for number in range(5)]
    for file in old:
        a.publish(file.path)
    b = network.node("b")
    mine = make_file(tmp_path / "of-b.pkg", 3 * MIB)
    b.publish(mine.path)
    b.join(a)
    for file in old:
        b.wait_holds(file.name, file.sha256)
    a.wait_holds(mine.name, mine.sha256)


def test_a_package_travels_up_the_chain_as_well(network: Network, installers: Installers) -> None:
    a, _, c = network.chain("a", "b", "c")
    file = installers.get()
    c.publish(file.path)
    a.wait_holds(file.name, file.sha256)
    package = a.package(file.name)
    assert package is not None
    assert package["origin"] == c.id


def test_a_change_of_notes_and_tags_reaches_the_end_without_moving_bytes(
    network: Network, tmp_path: Path
) -> None:
    a, b, c = network.chain("a", "b", "c")
    file = make_file(tmp_path / "noted.pkg", 3 * MIB)
    a.publish(file.path)
    c.wait_holds(file.name, file.sha256)
    before = sum(1 for line in b.lines("request") if "/content" in line["path"])
    b.api("PATCH", f"/packages/{file.name}", {"notes": "Für alle Standorte", "tags": ["office", "berlin"]})

    def arrived() -> bool:
        packages = [node.package(file.name) or {} for node in (a, c)]
        return all(
            package["notes"] == "Für alle Standorte" and package["tags"] == ["office", "berlin"]
            for package in packages
        )

    eventually(arrived, 20, "the change did not arrive")
    assert sum(1 for line in b.lines("request") if "/content" in line["path"]) == before
