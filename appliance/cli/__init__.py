"""The `ods` command.

    exits           exit codes, and which error means which
    output          tables for people, JSON for programs
    command         the classes of all commands: every one of them takes --json
    options         options that several commands share
    profile         which node is spoken to, and as whom
    client, tus, waiting    speaking to a node: requests, uploads that resume, packages that arrive elsewhere
    node, settings  on this machine: serve, worker, init; config
    moving          on this machine: export, import, fsck
    packages, peers, transfers, accounts, notify, status    through a node's admin API
    demo, demo_nodes, flat_package                  three nodes to look at

Commands of the first kind read the settings and build the node; those of the second kind know nothing but a URL.
"""

from .main import main

__all__ = ["main"]
