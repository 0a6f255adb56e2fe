"""Talking to other nodes: identity, signed records and requests, invites, the wire format, the clients.

`client` speaks JSON through requests; `content` moves bytes over plain sockets, because that is where the time goes.
Both sign with `signing`, and both raise only the `PeerError` family. Nothing here decides anything.
"""
