"""Nodes, and which packages a node admits."""

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidInput, InviteRefused, PermissionDenied

MAX_PEERS = 1_000  #: that a node record names: with more, it would not fit a record's size
DEFAULT_STAGES = ("dev", "test", "prod")
CLOCKS_APART_MS = 60_000  #: nodes whose clocks differ by more are not registered with each other


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBody:
    """The body of a node record."""

    name: str
    url: str  #: base URL that peers call, without a trailing slash
    stage: str
    version: str
    tags_take: tuple[str, ...] = ()  #: if any: only packages that carry at least one of them
    tags_refuse: tuple[str, ...] = ()  #: packages that carry one of them stay away
    context: str = ""  #: the path before /Packages/, such as /ods
    tls_fingerprint: str = ""  #: SHA-256 of the DER certificate in hex, when peers should pin it
    peers: tuple[
        str, ...
    ] = ()  #: ids of the nodes that it is registered with; none in records of older versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Whether a node takes a package's bytes, and the sentence that says why."""

    admitted: bool
    reason: str


def check_stage(stage: str, stages: Sequence[str]) -> str:
    """Return the stage.

    Raises:
        InvalidInput: It is not one of `stages`.
    """
    if stage not in stages:
        raise InvalidInput(f'There is no stage "{stage}"; the stages are {", ".join(stages)}.')
    return stage


def compare_stages(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Compare the lists of stages of two nodes that are to be registered with each other.

    Returns:
        In words, which stages only one of them knows; "" if both lists are alike.

    Raises:
        InviteRefused: They have no stage in common, or have them in another order: "at or below" would mean one thing
            here and another one there.
    """
    common = [stage for stage in ours if stage in theirs]
    if not common or common != [stage for stage in theirs if stage in ours]:
        raise InviteRefused(
            f"The stages of the two nodes contradict each other: {' < '.join(ours)} at the one that answers, "
            f"{' < '.join(theirs)} at the other. Set node.stages to the same list on both, restart, and join again."
        )
    only = [
        f"{', '.join(extra)} only at {where}"
        for extra, where in (
            ([stage for stage in ours if stage not in common], "this node"),
            ([stage for stage in theirs if stage not in common], "the peer"),
        )
        if extra
    ]
    if not only:
        return ""
    return f"Different node.stages: {'; '.join(only)}. Packages of a stage that a node doesn't know are not sent to it."


def compare_clocks(ours: int, theirs: int) -> None:
    """Compare the clocks of two nodes that are to be registered with each other, in UTC milliseconds.

    Raises:
        InviteRefused: They are too far apart: each would refuse the other's requests.
    """
    apart = (theirs - ours) / 1000
    if abs(apart) * 1000 > CLOCKS_APART_MS:
        raise InviteRefused(
            f"The clock of the joining node is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} this "
            f"node's; at most {CLOCKS_APART_MS // 1000} s are allowed. Set the clocks of both (NTP), and join again."
        )


def check_within(stage: str, within: Sequence[str]) -> None:
    """Let somebody who is limited to the stages `within` do something at this one; no stages are no limit.

    Raises:
        PermissionDenied: It is none of theirs.
    """
    if within and stage not in within:
        raise PermissionDenied(
            f'Your account is limited to packages of the stage {" or ".join(within)}; this is about "{stage}".'
        )


def admit(
    *,
    stages: Sequence[str],
    node_stage: str,
    take: Sequence[str],
    refuse: Sequence[str],
    package_stage: str,
    tags: Sequence[str],
) -> Admission:
    """Decide whether a node takes a package.

    A package goes to nodes whose stage is at or below its own: a `prod` package everywhere, a `dev` package only
    to `dev` nodes. Refused tags come before taken ones. A stage that is not known here admits nothing.

    Args:
        stages: All stages, lowest trust first.
        node_stage: The node's stage.
        take: Tags of which a package must carry one; empty takes all.
        refuse: Tags that keep a package away.
        package_stage: The package's stage.
        tags: The package's tags.
    """
    for stage in (package_stage, node_stage):
        if stage not in stages:
            return Admission(admitted=False, reason=f'this node knows no stage "{stage}"')
    if stages.index(package_stage) < stages.index(node_stage):
        return Admission(
            admitted=False,
            reason=f"{package_stage} packages are not sent to {node_stage} nodes unless they are promoted",
        )
    refused = [tag for tag in tags if tag in refuse]
    if refused:
        return Admission(admitted=False, reason=f"this node refuses the tag {refused[0]}")
    if take and not any(tag in take for tag in tags):
        return Admission(admitted=False, reason=f"this node takes only the tags {', '.join(take)}")
    return Admission(admitted=True, reason=f"a {package_stage} package goes to this {node_stage} node")
