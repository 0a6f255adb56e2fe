"""`ods node`: every node of the network."""

from .client import NodeClient
from .command import group
from .options import remote
from .output import Output


@group("node")
def node() -> None:
    """Look at the nodes of the network."""


@node.command("list")
@remote
def list_(client: NodeClient, output: Output) -> None:
    """List every node that this one has heard of, registered with it or not."""
    found = client.get("/nodes")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["name", "url", "stage", "takes", "refuses", "version", "this node", "peer", "id"],
        [
            (
                n["name"], n["url"], n["stage"], ", ".join(n["tags_take"]), ", ".join(n["tags_refuse"]),
                n["version"], n["self"], n["registered"], n["id"],
            )
            for n in found
        ],
    )  # fmt: skip
