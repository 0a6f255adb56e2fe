"""Nodes, and which packages a node admits."""

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidInput, PermissionDenied

DEFAULT_STAGES = ("dev", "test", "prod")


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
    to `dev` nodes. Refused tags come before taken ones.

    Args:
        stages: All stages, lowest trust first.
        node_stage: The node's stage.
        take: Tags of which a package must carry one; empty takes all.
        refuse: Tags that keep a package away.
        package_stage: The package's stage.
        tags: The package's tags.
    """
    if package_stage not in stages:
        return Admission(admitted=False, reason=f'this node knows no stage "{package_stage}"')
    if stages.index(package_stage) < stages.index(node_stage):
        return Admission(
            admitted=False, reason=f"a {package_stage} package does not go to a {node_stage} node; promote it"
        )
    refused = [tag for tag in tags if tag in refuse]
    if refused:
        return Admission(admitted=False, reason=f"this node refuses the tag {refused[0]}")
    if take and not any(tag in take for tag in tags):
        return Admission(admitted=False, reason=f"this node takes only the tags {', '.join(take)}")
    return Admission(admitted=True, reason=f"a {package_stage} package goes to this {node_stage} node")
