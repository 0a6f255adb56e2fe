"""`ods node`: every node of the network."""

import click

from .client import NodeClient, segment
from .command import group
from .confirm import confirm, yes_option
from .options import remote
from .output import Output


@group("node")
def node() -> None:
    """See the nodes of the network, and remove those that are gone."""


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


@node.command("remove")
@click.argument("name")
@yes_option
@remote
def remove(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """Take a node that is gone for good off every node's lists, by name or id.

    Nothing waits for it any more, and its distribution point in an MDM goes. A node that still runs comes back by
    itself.
    """
    found = client.get(f"/nodes/{segment(name)}")
    confirm(f"Permanently remove {found['name']} at {found['url']} from every node?", yes=yes)
    client.delete(f"/nodes/{found['id']}")
    if output.json:
        output.data({"removed": found["id"]})
    else:
        output.line(f"{found['name']} is removed from the network.")
