"""Which nodes a package cannot get to."""

from appliance.domain.node import NodeBody
from appliance.domain.reach import cut_off


def network(**peers: str) -> dict[str, NodeBody]:
    """Nodes with whom each says it is registered, by letters."""
    return {
        id: NodeBody(name=id, url=f"http://{id}", stage="prod", version="1", peers=tuple(known))
        for id, known in peers.items()
    }


def test_a_node_that_does_not_admit_it_is_in_the_way() -> None:
    nodes = network(a="b", b="ac", c="b")
    assert cut_off(nodes, holders={"a"}, admitting={"c"}) == ["c"]
    assert cut_off(nodes, holders={"a"}, admitting={"b", "c"}) == []


def test_another_way_round_is_a_way() -> None:
    assert cut_off(network(a="bd", b="ac", c="bd", d="ac"), holders={"a"}, admitting={"c", "d"}) == []


def test_one_on_the_way_that_holds_it_still_is_a_source() -> None:
    assert cut_off(network(a="b", b="ac", c="b"), holders={"a", "b"}, admitting={"c"}) == []


def test_one_side_that_names_the_other_is_enough() -> None:
    assert cut_off(network(a="", b="a", c="b"), holders={"a"}, admitting={"b", "c"}) == []


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert cut_off(network(a="", b=""), holders={"a"}, admitting={"b"}) == []
    assert cut_off(network(a="b", b="a"), holders=set(), admitting={"b"}) == []
    assert cut_off(network(a="bx", b="a"), holders={"a", "gone"}, admitting={"b", "gone"}) == []
