"""Waiting until a package is on every node that admits it.

What a node said of its copy counts while it answers: nobody knows what became of the copy of one that does not.
"""

import time
from typing import Any

from .client import NodeClient
from .exits import CommandFailed, ExitCode
from .output import Output, moment, visible

_SETTLED = {"held", "not_admitted"}
_POLL_S = 0.5


def wait_for_all(client: NodeClient, output: Output, added: Any, deadline: float) -> Any:
    """Wait until every node of the network answers, and says that it holds these bytes or does not admit them.

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
        nodes = client.get("/nodes")["items"]  # first: one that answers again may say that its copy is gone
        found = client.get(f"/packages/{added['id']}")
        if found["withdrawn"] or found["sha256"] != added["sha256"]:
            raise CommandFailed(
                f"{found['filename']} was withdrawn or replaced meanwhile.",
                ExitCode.CONFLICT,
                {"package": found},
            )
        if not found["admitted_by"]:
            raise CommandFailed(found["notice"], ExitCode.FAILED, {"package": found})
        said = {replica["node"]: replica for replica in found["replicas"]}
        missing = [node for node in nodes if not _settled(node, said.get(node["id"]))]
        if not missing:
            if not output.json:
                output.line(f"{found['filename']} is on every node that admits it.")
            return found
        silent = {one["node"]: one["reason"] for one in found["unheard"]}
        names = ", ".join(_known(node, said.get(node["id"]), silent.get(node["id"], "")) for node in missing)
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"{found['filename']} is not yet on: {names}.", ExitCode.TRY_LATER, {"package": found}
            )
        if names != told:
            output.note(f"{visible(found['filename'])}: waiting for {names} ...")
            told = names
        time.sleep(_POLL_S)


def _settled(node: Any, replica: Any) -> bool:
    """Whether nothing is left to wait for at a node; one of an older version says nothing of health."""
    return bool(
        replica and replica["current"] and replica["presence"] in _SETTLED and not node.get("health", "")
    )


def _known(node: Any, replica: Any, unheard: str) -> str:
    """A node that is waited for, with what is known of it."""
    facts = []
    if node.get("health", ""):
        since = f" since {moment(node['failing_since'])}" if node["failing_since"] else ""
        facts.append(f"{node['health']}{since}")
    if replica:
        presence = replica["presence"].replace("_", " ") if replica["current"] else "it had other bytes"
        facts.append(f"{presence} at {moment(replica['at'])}" if facts else presence)
    elif unheard and not facts:
        facts.append(unheard)
    return visible(f"{node['name']} ({', '.join(facts)})" if facts else node["name"])
