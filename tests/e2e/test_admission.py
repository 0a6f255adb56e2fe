"""Stages and tags: which nodes take a package's bytes, and that they always say why."""

from pathlib import Path

from tests.builders import MIB, make_file
from tests.harness import Network, NodeProcess, eventually


def wait_presence(node: NodeProcess, name: str, presence: str, says: str = "") -> None:
    """Wait until the node says this of the package."""

    def told() -> bool:
        package = node.package(name)
        return package is not None and package["presence"] == presence and says in package["reason"]

    eventually(told, 30, lambda: f"{node.name} does not say {presence} ({says}): {node.package(name)}")


def test_promotion_fills_demotion_releases_and_records_pass_through(network: Network, tmp_path: Path) -> None:
    a = network.node("a", NODE_STAGE="dev")
    b = network.node("b", NODE_STAGE="prod")
    c = network.node("c", NODE_STAGE="test")
    b.join(a)
    c.join(b)
    file = make_file(tmp_path / "tool.pkg", 3 * MIB)

    # A dev package stays at the dev node; its record passes through B, which does not admit it, to C.
    a.publish(file.path, stage="dev")
    wait_presence(
        b, file.name, "not_admitted", "dev packages are not sent to prod nodes unless they are promoted"
    )
    wait_presence(c, file.name, "not_admitted", "dev packages are not sent to test nodes")
    assert b.head(file.name).status == 404
    assert b.files("blobs") == []

    # At stage test, C admits it, but the only holder is out of its reach: it says so and names it.
    a.api("PATCH", f"/packages/{file.name}", {"stage": "test"})
    wait_presence(c, file.name, "waiting", "can't reach a, which has a copy")
    assert c.head(file.name).status == 503
    wait_presence(b, file.name, "not_admitted")

    # Promoted by a node that does not hold it, it fills B and, from there, C.
    b.api("PATCH", f"/packages/{file.name}", {"stage": "prod"})
    for node in (b, c):
        node.wait_holds(file.name, file.sha256)
        assert node.sha1(file.name) == file.sha1
        wait_presence(node, file.name, "held", "a prod package goes to")

    # Demoted, it leaves B and C; A admits it and keeps it.
    c.api("PATCH", f"/packages/{file.name}", {"stage": "dev"})
    for node in (b, c):
        wait_presence(node, file.name, "not_admitted", "dev packages are not sent to")
        eventually(lambda node=node: node.files("blobs") == [], 20, f"{node.name} keeps the bytes")
        assert node.head(file.name).status == 404
    assert a.sha1(file.name) == file.sha1
    assert a.presence(file.name) == "held"


def test_tags_are_taken_and_refused(network: Network, tmp_path: Path) -> None:
    a = network.node("a")
    b = network.node("b", NODE_TAGS_REFUSE="huge")
    c = network.node("c", NODE_TAGS_TAKE="design, office")
    b.join(a)
    c.join(b)
    plain, tagged = make_file(tmp_path / "plain.pkg", MIB, 1), make_file(tmp_path / "tagged.pkg", MIB, 2)
    a.publish(plain.path)
    a.publish(tagged.path, tags="huge,design")
    b.wait_holds(plain.name, plain.sha256)
    wait_presence(b, tagged.name, "not_admitted", "this node refuses the tag huge")
    wait_presence(c, plain.name, "not_admitted", "this node takes only the tags design, office")
    wait_presence(c, tagged.name, "waiting", "can't reach a, which has a copy")

    a.api("PATCH", f"/packages/{tagged.name}", {"tags": ["design"]})
    for node in (b, c):
        node.wait_holds(tagged.name, tagged.sha256)
    a.api("PATCH", f"/packages/{plain.name}", {"tags": ["office"]})
    c.wait_holds(plain.name, plain.sha256)

    a.api("PATCH", f"/packages/{tagged.name}", {"tags": ["huge", "design"]})
    wait_presence(b, tagged.name, "not_admitted")
    eventually(lambda: b.head(tagged.name).status == 404, 20, "b serves it still")
    assert c.holds(tagged.name, tagged.sha256)


def test_the_last_copy_is_kept_until_a_node_that_admits_it_holds_it(network: Network, tmp_path: Path) -> None:
    a = network.node("a", NODE_STAGE="prod")
    file = make_file(tmp_path / "only.pkg", 2 * MIB)
    a.publish(file.path, stage="dev")
    wait_presence(a, file.name, "held", "kept until a node that admits the package has it")
    b = network.node("b", NODE_STAGE="dev")
    b.join(a)
    b.wait_holds(file.name, file.sha256)
    wait_presence(a, file.name, "not_admitted")
    eventually(lambda: a.files("blobs") == [], 20, "a keeps the bytes")
    assert b.sha1(file.name) == file.sha1


def test_a_node_that_changes_its_stage_fills_itself(network: Network, tmp_path: Path) -> None:
    a = network.node("a", NODE_STAGE="dev")
    b = network.node("b", NODE_STAGE="prod")
    b.join(a)
    file = make_file(tmp_path / "dev.pkg", 2 * MIB)
    a.publish(file.path, stage="dev")
    wait_presence(b, file.name, "not_admitted")
    b.settings["NODE_STAGE"] = "dev"
    b.restart()
    b.wait_holds(file.name, file.sha256)
    eventually(
        lambda: (
            {node["name"]: node["stage"] for node in a.api("GET", "/nodes")["items"]}
            == {"a": "dev", "b": "dev"}
        ),
        20,
        "a does not learn b's stage",
    )


def test_a_package_that_no_path_leads_to_a_node_is_told_where_it_is_uploaded(
    network: Network, tmp_path: Path
) -> None:
    a, b = network.node("a"), network.node("b")
    c = network.node("c", NODE_STAGE="test")
    b.join(a)
    c.join(b)
    eventually(
        lambda: len(a.api("GET", f"/nodes/{b.id}")) and len(a.api("GET", "/nodes")["items"]) == 3,
        20,
        "a knows not all",
    )
    file = make_file(tmp_path / "Tool.pkg", MIB)

    def told() -> bool:
        answer = a.publish(file.path, stage="test", replace="true")
        return "No path leads this package to c" in answer["notice"]

    eventually(told, 20, "the upload says nothing")
    detail = a.package(file.name)
    assert detail is not None
    assert detail["cut_off"] == ["c"]
    waiting = eventually(
        lambda: (p := c.package(file.name)) and p["presence"] == "waiting" and p, 20, "unknown to c"
    )
    assert waiting["wanted_since"]
    assert waiting["retry_at"], "it is not said when it is looked at again"
    c.join(a)
    c.wait_holds(file.name, file.sha256)
    eventually(lambda: (a.package(file.name) or {})["cut_off"] == [], 20, "it is still cut off")
