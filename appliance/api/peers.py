"""Peers: invite, join, list, remove."""

from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.domain.errors import PeerNotFound
from appliance.domain.event import EventType
from appliance.domain.states import PeerState
from appliance.service.accounts import Role
from appliance.service.peers import Peer

from .base import BaseHandler
from .models import InviteInput, JoinInput
from .views import iso, peer_json


class AdminHandler(BaseHandler):
    """Changes are for administrators."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.ADMIN, "DELETE": Role.ADMIN, "PATCH": Role.ADMIN}

    def shown(self, peer: Peer) -> dict[str, Any]:
        """A peer as JSON."""
        node = self.app.holdings.nodes.get(peer.id)
        named = {}
        for id, away in self.app.peers.quarantined_for(peer.id).items():
            package = self.app.catalogue.by_id(id)
            named[id] = (package.body.filename if package else id, away)
        return peer_json(
            peer,
            stage=node.stage if node else "",
            version=node.version if node else "",
            healthy=peer.state is PeerState.ACTIVE and not peer.down and not peer.failures,
            set_aside=named,
            now=self.app.now(),
        )


class PeersHandler(AdminHandler):
    """`/api/v1/peers`."""

    async def get(self) -> None:
        """Every registered peer and how it is doing."""
        self.write_json({"items": [self.shown(peer) for peer in self.app.peers.all()], "next": None})


class PeerHandler(AdminHandler):
    """`/api/v1/peers/{id or name}`."""

    async def get(self, name: str) -> None:
        """One peer."""
        self.write_json(self.shown(self.app.peers.resolve(name)))

    async def delete(self, name: str) -> None:
        """End the registration."""
        peer = self.app.peers.resolve(name)
        await self.app.registrations.remove(peer.id, actor=self.actor)
        self.app.metrics.forget_peer(peer.id)
        self.set_status(204)
        self.finish()


class InvitesHandler(AdminHandler):
    """`/api/v1/peers/invites`."""

    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN, "POST": Role.ADMIN}

    async def get(self) -> None:
        """Invites that can still be used, or were."""
        items = [
            {
                "id": doc["_id"],
                "expires_at": iso(doc["expires_at"]),
                "created_at": iso(doc["created_at"]),
                "created_by": doc["created_by"],
                "used_by": doc["used_by"],
                "bad_macs": doc["bad_macs"],
            }
            for doc in await self.app.registrations.invites()
        ]
        self.write_json({"items": items, "next": None})

    async def post(self) -> None:
        """Make an invite; its text is shown only now."""
        text, invite = await self.app.registrations.invite(
            expires_s=self.body_as(InviteInput).expires_in, actor=self.actor
        )
        self.write_json({"id": invite.id, "invite": text, "expires_at": iso(invite.expires_at)}, 201)


class InviteHandler(AdminHandler):
    """`/api/v1/peers/invites/{id}`."""

    async def delete(self, id: str) -> None:
        """Revoke an invite."""
        if not await self.app.registrations.revoke_invite(id):
            raise PeerNotFound(f"There is no invite {id}.")
        await self.app.events.record(EventType.PEER_INVITE_REVOKED, actor=self.actor, subject=id)
        self.set_status(204)
        self.finish()


class JoinHandler(AdminHandler):
    """`/api/v1/peers/join`."""

    async def post(self) -> None:
        """Register with the node that made an invite."""
        peer = await self.app.registrations.join(self.body_as(JoinInput).invite, actor=self.actor)
        self.write_json(self.shown(peer), 201)
