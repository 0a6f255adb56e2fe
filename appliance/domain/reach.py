"""Which nodes a package cannot get to: bytes pass only from a node that holds them to one it is registered with."""

from collections.abc import Collection, Mapping

from .node import NodeBody


def cut_off(nodes: Mapping[str, NodeBody], holders: Collection[str], admitting: Collection[str]) -> list[str]:
    """The nodes that admit a package and that no path of registrations leads it to.

    A node on the way must admit the package too, or hold it already: others never have its bytes. A node whose
    record does not say whom it is registered with is left out, unless another one names it.

    Args:
        nodes: The network, by node id.
        holders: Ids of the nodes that hold the bytes.
        admitting: Ids of the nodes that admit the package.

    Returns:
        Their ids, sorted.
    """
    edges: dict[str, set[str]] = {id: set() for id in nodes}
    for id, node in nodes.items():
        for peer in node.peers:
            if peer in edges:
                edges[id].add(peer)
                edges[peer].add(id)
    reached = {id for id in holders if id in nodes}
    if not reached:
        return []
    waiting = list(reached)
    while waiting:
        for peer in edges[waiting.pop()]:
            if peer in admitting and peer not in reached:
                reached.add(peer)
                waiting.append(peer)
    return sorted(id for id in admitting if id in nodes and id not in reached and edges[id])


def neighbours(nodes: Mapping[str, NodeBody], id: str) -> list[str]:
    """The nodes that a node is registered with, as its record or theirs say."""
    named = nodes[id].peers if id in nodes else ()
    return sorted(
        other for other, node in nodes.items() if other != id and (other in named or id in node.peers)
    )
