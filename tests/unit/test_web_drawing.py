"""Where nodes stand in the drawing of the network, and which way its lines lead."""

from web.drawing import Spot, _lines, _turns


def spot(x: float) -> Spot:
    return Spot(x=x, y=0.0, name="", under="", kind="good")


def test_a_node_stands_beside_the_one_that_it_is_behind() -> None:
    registrations = {frozenset(("c", "b")): "far", frozenset(("d", "b")): "far"}
    turns = _turns(["c", "d", "e"], ["a", "b"], registrations)
    assert round((turns["c"] + turns["d"]) / 2, 6) == 0.5, "b is at half a turn"
    assert turns["e"] == 0.25, "nobody says where it belongs: between two"


def test_many_fill_the_circle() -> None:
    turns = _turns([str(number) for number in range(20)], ["a"], {})
    assert sorted(turns.values()) == [number / 20 for number in range(20)]


def test_a_line_leads_where_bytes_go_and_is_drawn_last() -> None:
    spots = {"a": spot(0), "b": spot(100), "c": spot(300)}
    registrations = {frozenset("ab"): "good", frozenset("bc"): "far", frozenset("cx"): "far"}
    quiet, busy = _lines(spots, registrations, {("b", "a"): 5.0, ("a", "b"): 2.0})
    assert quiet.rate == 0.0
    assert (busy.kind, busy.rate) == ("good flow", 7.0)
    assert busy.x1 > busy.x2, "most goes from b to a"
