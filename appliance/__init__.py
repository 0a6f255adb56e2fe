"""The node: takes packages, verifies them, replicates them and serves them.

The layers, from the top; each imports only those below it:

    cli, server, bootstrap   the command, start and stop, the object graph
    api                      HTTP for programs
    service                  the use cases
    jobs | peering           doing things later | talking to other nodes
    store                    keeping things
    domain                   values, rules and errors: pure
"""

__version__ = "0.1.0"
