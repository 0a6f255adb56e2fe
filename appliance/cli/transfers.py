"""`ods transfer`: what is coming to a node."""

import click

from appliance.domain.states import TransferState

from .client import NodeClient, segment
from .command import group
from .options import remote
from .output import Output, moment, size, upcoming


@group("transfer")
def transfer() -> None:
    """Look at transfers; retry or cancel them, put one first."""


@transfer.command("list")
@click.option("--state", type=click.Choice([str(one) for one in TransferState]), help="Only in this state.")
@remote
def list_(client: NodeClient, output: Output, state: str | None) -> None:
    """List transfers, the last changed first."""
    found = list(client.pages("/transfers", state=state))
    if output.json:
        output.data(found)
        return
    output.table(
        ["package", "state", "done", "of", "rate", "from", "changed", "next try", "error", "id"],
        [
            (
                t["filename"], t["state"], size(t["bytes_done"]), size(t["size"]),
                f"{size(t['rate'])}/s" if t["rate"] else "", [source["name"] for source in t["sources"]],
                moment(t["updated_at"]), upcoming(t["retry_at"]), t["error"], t["id"],
            )
            for t in found
        ],
        numbers=["done", "of", "rate"],
    )  # fmt: skip


@transfer.command("retry")
@click.argument("id")
@remote
def retry(client: NodeClient, output: Output, id: str) -> None:
    """Try a transfer again that failed or was cancelled."""
    _act(client, output, id, "retry")


@transfer.command("first")
@click.argument("id")
@remote
def first(client: NodeClient, output: Output, id: str) -> None:
    """Let a transfer that waits go before all others."""
    _act(client, output, id, "prioritize")


@transfer.command("cancel")
@click.argument("id")
@remote
def cancel(client: NodeClient, output: Output, id: str) -> None:
    """Stop a transfer."""
    _act(client, output, id, "cancel")


def _act(client: NodeClient, output: Output, id: str, action: str) -> None:
    found = client.post(f"/transfers/{segment(id)}/{action}")
    if output.json:
        output.data(found)
    else:
        output.line(f"{found['filename']}: {found['state']}")
