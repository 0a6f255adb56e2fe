"""No socket to a directory server stays open, whatever comes of the connection."""

import socket
from typing import Any

import ldap3.strategy.base
import pytest

from appliance.service.directory.conversation import Conversation, ServerFailed, Trust


@pytest.mark.parametrize("listens", [False, True])
def test_every_address_that_was_tried_is_let_go_of(monkeypatch: pytest.MonkeyPatch, *, listens: bool) -> None:
    """A name may have several addresses, of which the first ones do not answer."""
    made: list[socket.socket] = []

    class Watched(socket.socket):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(
            ldap3.Server, "candidate_addresses", lambda _: [[*address, None, None] for address in addresses]
        )
        monkeypatch.setattr(ldap3.strategy.base.socket, "socket", Watched)
        if not listens:
            server.close()
        conversation = Conversation(f"ldap://localhost:{port}", Trust(""), connect_s=2, receive_s=1)
        with pytest.raises(ServerFailed):
            conversation.open()
        conversation.close()
    assert len(made) == 2
    assert [each.fileno() for each in made] == [-1, -1]
