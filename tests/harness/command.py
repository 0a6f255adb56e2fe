"""The command `ods` beside a node."""

import subprocess
import sys

from .node import PASSWORD, NodeProcess


def ods(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the node's settings, as its administrator."""
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        env=node.environment() | {"ODS_URL": node.url, "ODS_USER": "admin", "ODS_PASSWORD": PASSWORD},
        cwd=node.directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
