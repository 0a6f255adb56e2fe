"""What handlers of the peer API share: the caller is a registered node that signed the request."""

import logging
from typing import Any

from appliance.domain.errors import ApplianceError, ClockSkew, InviteRefused, PeerUnknown, SignatureRefused
from appliance.peering.address import authority, base_path
from appliance.peering.signing import Message, Signed, verify_request

from .base import BaseHandler

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024  #: bytes of a message
MAX_REGISTRATION = 128 * 1024  #: bytes of the one message that strangers may send


class PeerHandler(BaseHandler):
    """Closed to all but registered nodes."""

    open = True  # not to accounts: to signatures
    answers_head = False
    peer: str = ""  #: id of the node that signed

    @property
    def peer_id(self) -> str:
        """For the access log."""
        return self.peer

    async def prepare(self) -> None:
        """Check the signature, the clock and the nonce.

        Raises:
            SignatureRefused: One of them is wrong; every refusal is counted.
        """
        await super().prepare()
        signed = self.verify()
        await self.app.nonces.accept(signed, self.request.method or "GET")
        self.peer = signed.node
        await self.app.peers.seen(signed.node)

    def verify(self) -> Signed:
        """Who signed the request, for this node's own URL: a proxy before it may take off the path of that URL."""
        message = Message(
            self.request.method or "GET",
            base_path(self.app.node_url) + (self.request.uri or "/"),
            dict(self.request.headers.get_all()),
        )
        return verify_request(
            message,
            self.request.body,
            authority=authority(self.app.node_url),
            key_for=self.key_for,
            now=self.app.now,
        )

    def key_for(self, node: str) -> bytes | None:
        """The public key to check with."""
        return self.app.peers.key_for(node)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Count and log refusals."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, SignatureRefused):
            self.app.metrics.peer_refused(error.code)
            log.warning(
                "a peer request was refused",
                extra={
                    "action": "peer_refused",
                    "code": error.code,
                    "reason": error.message,
                    "path": self.request.path,
                },
            )
            if isinstance(error, ClockSkew):
                self.app.peers.skewed(str(error.details.get("node", "")), error)
        elif isinstance(error, InviteRefused):
            self.app.metrics.peer_refused(error.code)
            log.warning(
                "a registration was refused",
                extra={"action": "registration_refused", "peer": self.peer, "reason": error.message},
            )
        elif isinstance(error, ApplianceError) and not isinstance(error, PeerUnknown):
            log.info("a peer request failed", extra={"action": "peer_request_failed", "code": error.code})
        super().write_error(status_code, **kwargs)
