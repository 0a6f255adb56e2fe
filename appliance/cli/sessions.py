"""`ods user sessions` and `ods user sign-out`: who is signed in with a browser."""

import click

from .client import NodeClient, segment
from .command import command
from .confirm import confirm, yes_option
from .options import remote
from .output import Output, moment


@command("sessions")
@remote
def sessions(client: NodeClient, output: Output) -> None:
    """List your sessions in browsers; as an administrator everybody's."""
    found = client.get("/sessions")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["account", "from", "browser", "signed in", "last used"],
        [
            (s["account"], s["address"], s["agent"], moment(s["created_at"]), moment(s["last_used"]))
            for s in found
        ],
    )


@command("sign-out")
@click.argument("name")
@yes_option
@remote
def sign_out(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """End every session of an account in browsers. API tokens go on."""
    confirm(f"Sign {name} out of every browser?", yes=yes)
    ended = client.delete(f"/users/{segment(name)}/sessions")
    if output.json:
        output.data(ended)
    else:
        output.line(f"{name} is signed out; sessions ended: {ended['ended']}.")
