"""The command `ods`: run a node, and ask a running one.

`serving` has the commands that are the node, `local` those that work on its data directory while it is stopped, the
others speak to a running node through its admin API (`client`). `output` decides between tables and JSON, `exits`
says which exit code means what.
"""

import click

from appliance import __version__

from . import demo, local, network, packages, people, serving, status
from .exits import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ods")
def main() -> None:
    """Open Distribution Server: packages on every site, verified.

    Commands that ask a running node take its address from ODS_URL and a token from ODS_TOKEN (or ODS_USER and
    ODS_PASSWORD), or from the profile that `ods login` wrote. Exit codes: 0 done, 1 failed, 2 wrong usage,
    3 not found, 4 not allowed, 5 conflict, 6 node not reachable, 75 try again later.
    """


for module in (serving, local, network, packages, people, status, demo):
    module.add_to(main)
