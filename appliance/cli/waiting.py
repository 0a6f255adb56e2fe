"""Waiting until a package is on every node that admits it."""

import time
from typing import Any

from .client import NodeClient
from .exits import CommandFailed, ExitCode
from .output import Output, visible

_SETTLED = {"held", "not_admitted"}
_POLL_S = 0.5


def wait_for_all(client: NodeClient, output: Output, added: Any, deadline: float) -> Any:
    """Wait until every node of the network says that it holds these bytes or does not admit them.

    Args:
        client: The node that has the package.
        output: Told which nodes are waited for.
        added: The package, as the admin API shows it.
        deadline: Monotonic seconds.

    Returns:
        The package as it is then, with all replicas.

    Raises:
        CommandFailed: No node admits it, it was withdrawn or replaced meanwhile, or the deadline passed.
    """
    told = None
    while True:
        found = client.get(f"/packages/{added['id']}")
        if found["withdrawn"] or found["sha256"] != added["sha256"]:
            raise CommandFailed(
                f"{found['filename']} was withdrawn or replaced meanwhile.",
                ExitCode.CONFLICT,
                {"package": found},
            )
        if not found["admitted_by"]:
            raise CommandFailed(found["notice"], ExitCode.FAILED, {"package": found})
        settled = {r["node"] for r in found["replicas"] if r["current"] and r["presence"] in _SETTLED}
        missing = [node for node in client.get("/nodes")["items"] if node["id"] not in settled]
        if not missing:
            if not output.json:
                output.line(f"{found['filename']} is on every node that admits it.")
            return found
        names = ", ".join(visible(node["name"]) for node in missing)
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"{found['filename']} is not yet on: {names}.", ExitCode.TRY_LATER, {"package": found}
            )
        if names != told:
            output.note(f"{visible(found['filename'])}: waiting for {names} ...")
            told = names
        time.sleep(_POLL_S)
