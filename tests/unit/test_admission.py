"""Which packages a node takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidInput, InviteRefused
from appliance.domain.node import (
    DEFAULT_STAGES,
    Admission,
    admit,
    check_stage,
    compare_clocks,
    compare_stages,
)
from appliance.domain.package import check_tags

stage = st.sampled_from(DEFAULT_STAGES)
tags = st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True)


def ask(
    node: str = "prod", package: str = "prod", *, take: str = "", refuse: str = "", tags: str = ""
) -> Admission:
    """Admission with the default stages; tags as words."""
    return admit(
        stages=DEFAULT_STAGES,
        node_stage=node,
        take=take.split(),
        refuse=refuse.split(),
        package_stage=package,
        tags=tags.split(),
    )


@pytest.mark.parametrize(
    ("node", "admitted"),
    [
        ("dev", {"dev", "test", "prod"}),
        ("test", {"test", "prod"}),
        ("prod", {"prod"}),
    ],
)
def test_a_node_takes_packages_of_its_stage_and_above(node: str, admitted: set[str]) -> None:
    assert {package for package in DEFAULT_STAGES if ask(node, package).admitted} == admitted


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (ask("prod", "dev"), "dev packages are not sent to prod nodes unless they are promoted"),
        (ask("test", "prod"), "a prod package goes to this test node"),
        (ask("prod", "beta"), 'this node knows no stage "beta"'),
        (ask(refuse="x y", tags="a y"), "this node refuses the tag y"),
        (ask(take="x y", tags="a"), "this node takes only the tags x, y"),
        (ask(take="x", tags=""), "this node takes only the tags x"),
        (ask(take="x", refuse="y", tags="x y"), "this node refuses the tag y"),
    ],
)
def test_the_reason_says_why(asked: Admission, reason: str) -> None:
    assert asked.reason == reason


def test_an_unknown_stage_of_the_package_is_refused_and_not_an_error() -> None:
    assert not ask("dev", "beta").admitted


@given(stage, stage, tags, tags, tags)
def test_it_follows_the_rules(
    node: str, package: str, take: list[str], refuse: list[str], own: list[str]
) -> None:
    result = admit(
        stages=DEFAULT_STAGES, node_stage=node, take=take, refuse=refuse, package_stage=package, tags=own
    )
    expected = (
        DEFAULT_STAGES.index(package) >= DEFAULT_STAGES.index(node)
        and not set(own) & set(refuse)
        and (not take or bool(set(own) & set(take)))
    )
    assert result.admitted is expected
    assert result.reason


@given(stage, tags, tags, tags)
def test_promotion_never_takes_a_package_away(
    node: str, take: list[str], refuse: list[str], own: list[str]
) -> None:
    answers = [
        admit(
            stages=DEFAULT_STAGES, node_stage=node, take=take, refuse=refuse, package_stage=package, tags=own
        ).admitted
        for package in DEFAULT_STAGES
    ]
    assert answers == sorted(answers)


def test_stages_are_checked() -> None:
    assert check_stage("test", DEFAULT_STAGES) == "test"
    with pytest.raises(InvalidInput, match="dev, test, prod"):
        check_stage("beta", DEFAULT_STAGES)


def test_a_node_of_an_unknown_stage_admits_nothing() -> None:
    answer = ask("qa", "prod")
    assert (answer.admitted, answer.reason) == (False, 'this node knows no stage "qa"')


@pytest.mark.parametrize(
    ("ours", "theirs", "notice"),
    [
        ("dev test prod", "dev test prod", ""),
        ("dev test prod", "dev test qa prod", "qa only at the peer"),
        ("dev test qa prod", "dev test prod", "qa only at this node"),
        ("dev qa prod", "dev test prod", "qa only at this node; test only at the peer"),
        ("prod", "dev prod", "dev only at the peer"),
    ],
)
def test_stages_of_two_nodes_that_differ_are_told(ours: str, theirs: str, notice: str) -> None:
    said = compare_stages(ours.split(), theirs.split())
    assert notice in said
    assert bool(notice) == bool(said)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("dev test prod", "prod test dev"), ("dev prod", "prod dev"), ("dev", "prod"), ("dev", "")],
)
def test_stages_of_two_nodes_that_contradict_are_refused(ours: str, theirs: str) -> None:
    with pytest.raises(InviteRefused, match=r"node\.stages"):
        compare_stages(ours.split(), theirs.split())


@pytest.mark.parametrize("apart", [0, 60_000, -60_000])
def test_clocks_that_are_near_enough(apart: int) -> None:
    compare_clocks(1_800_000_000_000, 1_800_000_000_000 + apart)


@pytest.mark.parametrize(("apart", "words"), [(61_000, "61 s ahead of"), (-7_200_000, "7,200 s behind")])
def test_clocks_that_are_apart_are_refused_with_the_figure(apart: int, words: str) -> None:
    with pytest.raises(InviteRefused, match=words):
        compare_clocks(1_800_000_000_000, 1_800_000_000_000 + apart)


def test_tags_lose_doubles_and_keep_their_order() -> None:
    assert check_tags(["b", "a", "b"]) == ("b", "a")
    assert check_tags([]) == ()


@pytest.mark.parametrize(
    "wrong", ["abc", 5, None, [""], [" a"], ["a,b"], ["x" * 65], ["a\n"], [5], [None], map(str, range(501))]
)
def test_bad_tags_are_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput):
        check_tags(wrong)
