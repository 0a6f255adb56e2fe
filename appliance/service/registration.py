"""Registration: how two nodes come to know each other's keys, and how they part.

    joining node B                                     inviting node A
    reads the invite, keeps A's key as pending
    POST /peer/v1/registrations, signed by B  ------>  invite, MAC and signature hold; keeps B's key as pending
                                              <------  GET /peer/v1/node, signed by A: can B be called?
    answers, since it knows A's key           ------>  burns the invite, B is active
    MAC of the answer holds: A is active      <------  201 with A's signed record

Each side has then called the other. A retry after a lost answer succeeds: the invite is burnt for that very node.
"""

import asyncio
import base64
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from appliance.domain.errors import (
    InvalidInput,
    InviteRefused,
    PeerError,
    PeerMisbehaved,
    SignatureInvalid,
    SignatureRefused,
    StaleRevision,
)
from appliance.domain.event import EventType
from appliance.domain.node import compare_clocks, compare_stages
from appliance.domain.record import Record, RecordKind
from appliance.domain.states import PeerState
from appliance.peering.address import PeerAddress, check_url
from appliance.peering.client import PeerClient
from appliance.peering.identity import Identity
from appliance.peering.invite import (
    Invite,
    answer_mac,
    new_secret,
    parse_invite,
    registration_mac,
    same_mac,
)
from appliance.peering.records import check_time, node_body, parse_record, record_json, verify_record
from appliance.peering.wire import Registered, Registration
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Replace, Store

from .journal import entry
from .peers import Peer, Peers
from .secrets import SecretBox
from .throttle import Throttle

log = logging.getLogger(__name__)

DEFAULT_LIFE_S = 24 * 3600
MAX_LIFE_S = 7 * 24 * 3600
MAX_BAD_MACS = 5


class Registrations:
    """Invites, joining and leaving."""

    def __init__(
        self,
        *,
        store: Store,
        identity: Identity,
        peers: Peers,
        box: SecretBox,
        url: str,
        tls_fingerprint: str,
        ca_file: str,
        calls: Executor,
        own_record: Callable[[], Awaitable[Record]],
        on_joined: Callable[[Record, bool], Awaitable[None]],
        stages: Sequence[str],
        now: Callable[[], int],
    ) -> None:
        """Take what registering needs; `on_joined` gets the peer's record and whether it was this node that joined."""
        self._store = store
        self._identity = identity
        self._peers = peers
        self._box = box
        self._url = url
        self._tls_fingerprint = tls_fingerprint
        self._ca_file = ca_file
        self._calls = calls
        self._own_record = own_record
        self._on_joined = on_joined
        self._stages = stages
        self._now = now
        self._accepting = asyncio.Lock()
        self._throttle = Throttle(now)

    def moved(self, tls_fingerprint: str) -> None:
        """Invites carry this fingerprint from now on."""
        self._tls_fingerprint = tls_fingerprint

    # Invites

    async def invite(self, *, expires_s: int = DEFAULT_LIFE_S, actor: str) -> tuple[str, Invite]:
        """Make a one-time invite.

        Args:
            expires_s: Its life in seconds, at most a week.
            actor: Who makes it.

        Returns:
            The line to copy, which is shown only now, and what it says.

        Raises:
            InvalidInput: The life is out of bounds.
        """
        if not 60 <= expires_s <= MAX_LIFE_S:
            raise InvalidInput(f"An invite lives 60 to {MAX_LIFE_S} seconds.")
        invite = Invite(
            id=secrets.token_hex(8),
            url=self._url,
            key=self._identity.public_key,
            tls_fingerprint=self._tls_fingerprint,
            secret=new_secret(),
            expires_at=self._now() + expires_s * 1000,
        )
        await self._store.insert(
            "invites",
            {
                "_id": invite.id,
                "secret": self._box.seal(invite.secret),
                "expires_at": invite.expires_at,
                "created_at": self._now(),
                "created_by": actor,
                "bad_macs": 0,
                "used_by": "",
            },
        )
        event = entry(EventType.PEER_INVITED, at=self._now(), actor=actor, subject=invite.id)
        await self._store.batch([event])
        return invite.text(), invite

    async def invites(self) -> list[Doc]:
        """Invites that have not expired, without their secrets."""
        docs = every(self._store, "invites", {"expires_at": {"gt": self._now()}})
        return [{name: value for name, value in doc.items() if name != "secret"} async for doc in docs]

    async def revoke_invite(self, id: str) -> bool:
        """Delete an invite; says whether there was one."""
        return await self._store.delete("invites", {"_id": id}) > 0

    # Joining, as the node that was invited

    async def join(self, text: str, *, actor: str) -> Peer:
        """Register with the node that made an invite.

        Raises:
            InvalidInput: The text is no invite.
            InviteRefused: It is this node's own, or has expired.
            PeerError: The inviter cannot be reached, or refuses; the message says why.
        """
        invite = parse_invite(text)
        if invite.node == self._identity.node_id:
            raise InviteRefused("This invite was made by this node; use it on the node that is to join.")
        if invite.expires_at <= self._now():
            raise InviteRefused("The invite has expired; make a new one.")
        if self._peers.key_for(invite.node) is None:
            # The inviter calls back before it answers: its key must be known here by then.
            peer = Peer(
                id=invite.node,
                key=invite.key,
                url=invite.url,
                name=invite.node[:8],
                tls_fingerprint=invite.tls_fingerprint,
            )
            await self._peers.put(peer, [])
        try:
            record, notice = await self._register(invite)
        except (PeerError, SignatureRefused, InvalidInput, InviteRefused):
            if not self._peers.is_active(invite.node):
                await self._peers.drop(invite.node, [])
            raise
        peer = await self._complete(record, invite.tls_fingerprint, actor, notice=notice)
        await self._on_joined(record, True)
        return peer

    async def _register(self, invite: Invite) -> tuple[Record, str]:
        """Ask to be registered; the inviter's record, and what is to be said about its stages."""
        own = record_json(await self._own_record())
        nonce = secrets.token_hex(16)
        message = {
            "invite": invite.id,
            "record": own,
            "nonce": nonce,
            "mac": registration_mac(invite.secret, invite.id, own, nonce),
            "stages": list(self._stages),
            "time": self._now(),
        }
        client = self._client(invite.node, invite.url, invite.tls_fingerprint)
        answer: Registered = await self._in_thread(client.register, message)
        if not same_mac(answer.mac, answer_mac(invite.secret, invite.id, answer.record, nonce)):
            raise PeerMisbehaved(
                "The answer does not prove that it comes from the node that made the invite."
            )
        record = _checked_node(answer.record)
        check_time(record, self._now())
        if record.id != invite.node:
            raise PeerMisbehaved("The answer comes from another node than the one that made the invite.")
        return record, self._compare(answer)

    # Joining, as the node that invited

    def check_source(self, source: str) -> None:
        """Let a stranger try an invite.

        Args:
            source: Its address.

        Raises:
            TooManyAttempts: It tried too many that were none.
        """
        self._throttle.check(source)

    async def accept(self, message: Registration, signer: str, source: str) -> Registered:
        """Register a node that proves to know an invite's secret.

        Args:
            message: What it sent.
            signer: The node whose key signed the request: the one in the message's record.
            source: The address that it came from.

        Raises:
            InviteRefused: Unknown, used, expired or burnt invite; wrong proof; or the node cannot be called.
        """
        async with self._accepting:
            doc, secret = await self._proven(message, signer, source)
            record = _checked_node(message.record)
            check_time(record, self._now())
            if record.id != signer:
                raise InviteRefused("The registration is signed by another node than the one that it names.")
            notice = self._compare(message)
            await self._confirm(record)
            # Burnt in the same write that makes the registration: after a crash both are done, or neither.
            burnt = Replace("invites", {**doc, "used_by": signer}, doc["_rev"])
            try:
                await self._complete(record, "", doc["created_by"], [burnt], notice=notice)
            except StaleRevision:
                raise InviteRefused("The invite was revoked or used just now; make a new one.") from None
        self._throttle.succeeded(source)
        await self._on_joined(record, False)
        own = record_json(await self._own_record())
        return Registered(
            record=own,
            mac=answer_mac(secret, message.invite, own, message.nonce),
            stages=list(self._stages),
            time=self._now(),
        )

    def _compare(self, said: Registration | Registered) -> str:
        """Compare stages and clocks with those of the other node; what is to be said about its stages.

        Raises:
            InviteRefused: They do not fit together.
        """
        if said.time is not None:
            compare_clocks(self._now(), said.time)
        return "" if said.stages is None else compare_stages(self._stages, said.stages)

    async def _proven(self, message: Registration, signer: str, source: str) -> tuple[Doc, bytes]:
        """The invite that a registration names, and its secret, if it can be used and the secret is known."""
        doc = await self._store.get("invites", message.invite)
        # The same node may try again, because an answer can be lost; not once it was removed here.
        peer = self._peers.find(signer)
        known = peer is not None and peer.state is not PeerState.LEAVING
        if (
            doc is None
            or doc["expires_at"] <= self._now()
            or (doc["used_by"] and not (doc["used_by"] == signer and known))
        ):
            self._throttle.failed(source)
            raise InviteRefused("The invite is unknown, was already used or has expired; make a new one.")
        if doc["bad_macs"] >= MAX_BAD_MACS:
            raise InviteRefused("The invite was tried with wrong secrets too often; make a new one.")
        secret = self._box.open(doc["secret"])
        expected = registration_mac(secret, message.invite, message.record, message.nonce)
        if not same_mac(message.mac, expected):
            await self._store.replace("invites", {**doc, "bad_macs": doc["bad_macs"] + 1}, expect=doc["_rev"])
            raise InviteRefused("The secret of the invite is wrong; copy the whole line.")
        return doc, secret

    async def _confirm(self, record: Record) -> None:
        """Call the joining node under its URL."""
        body = node_body(record)
        client = self._client(record.id, check_url(body.url), body.tls_fingerprint)
        try:
            info = await self._in_thread(client.node)
        except PeerError as exc:
            raise InviteRefused(
                f"{body.name} was called back at {body.url}, and it failed: {exc.message} "
                "Set node.url on the joining node to an address that this node can reach.",
                url=body.url,
            ) from exc
        if info.id != record.id:
            raise InviteRefused(
                f"At {body.url} answers the node {info.id[:8]}, not {record.id[:8]}. "
                "Set node.url on the joining node to its own address.",
                url=body.url,
            )

    # Both

    async def _complete(
        self,
        record: Record,
        tls_fingerprint: str,
        actor: str,
        more: Sequence[Operation] = (),
        *,
        notice: str,
    ) -> Peer:
        """Make a registration active. `more` is done in the same write, `notice` shown with it."""
        body = node_body(record)
        old = self._peers.find(record.id)
        if old is not None and old.state is PeerState.LEAVING:  # that one ends, however this one goes on
            old = None
        fresh = old is None or old.state is not PeerState.ACTIVE
        now = self._now()
        # A copy: what is in use must not change if the write fails.
        peer = replace(
            old or Peer(id=record.id, key=_key(record), url=body.url, name=body.name, joined_at=now),
            url=check_url(body.url),
            name=body.name,
            tls_fingerprint=body.tls_fingerprint or tls_fingerprint,
            state=PeerState.ACTIVE,
            failures=0,
            retry_at=0,
            failing_since=0,
            down=False,
            disowned=False,
            last_error="",
            last_seen=now,
            notice=notice,
        )
        peer.joined_at = peer.joined_at or now
        events = [
            entry(
                EventType.PEER_JOINED,
                at=self._now(),
                actor=actor,
                subject=peer.id,
                name=peer.name,
                url=peer.url,
                **({"notice": notice} if notice else {}),
            )
        ]
        await self._peers.put(peer, [*more, *(events if fresh else [])])
        fields = {"action": "peer_joined", "peer": peer.id, "peer_name": peer.name}
        log.info("a peer joined", extra={**fields, "notice": notice} if notice else fields)
        return peer

    # Leaving

    async def remove(self, id: str, *, actor: str) -> None:
        """End a registration here, and tell the peer; a peer that cannot be told finds out when it calls.

        Raises:
            PeerNotFound: There is none.
        """
        peer = self._peers.get(id)
        client = self._peers.client(id)
        event = entry(
            EventType.PEER_LEFT, at=self._now(), actor=actor, subject=id, name=peer.name, removed_here=True
        )
        # From here on nothing is asked of it, nor given to it, however long it takes to tell it.
        begun = peer.state is PeerState.LEAVING
        await self._peers.put(replace(peer, state=PeerState.LEAVING), [] if begun else [event])
        try:
            await self._in_thread(client.leave)
        except PeerError as exc:
            log.warning(
                "a removed peer could not be told",
                extra={"action": "leave_untold", "peer": id, "reason": exc.message},
            )
        await self._peers.drop(id, [], only=PeerState.LEAVING)

    async def finish(self) -> None:
        """End what a crash kept from its end: registrations whose peers were being told that they end."""
        for peer in self._peers.all():
            if peer.state is PeerState.LEAVING:
                await self._peers.drop(peer.id, [], only=PeerState.LEAVING)

    async def left(self, id: str, *, by: str = "") -> None:
        """A peer ended the registration, or another node says that the peer is gone for good.

        Args:
            id: The peer.
            by: The node that says so, if not the peer.
        """
        peer = self._peers.get(id)
        event = entry(
            EventType.PEER_LEFT,
            at=self._now(),
            actor=f"node:{by or id}",
            subject=id,
            name=peer.name,
            removed_here=False,
        )
        await self._peers.drop(id, [] if peer.state is PeerState.LEAVING else [event])

    def _client(self, node: str, url: str, tls_fingerprint: str) -> PeerClient:
        address = PeerAddress(node=node, url=url, tls_fingerprint=tls_fingerprint, ca_file=self._ca_file)
        return PeerClient(self._identity, address, now=self._now)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function, *args)


def registering_key(message: Registration) -> tuple[str, bytes]:
    """Node id and public key that a registration claims; its signature must hold with that key.

    Raises:
        SignatureInvalid: The record in it is not signed by that key.
    """
    record = _checked_node(message.record)
    return record.id, _key(record)


def _checked_node(raw: dict[str, Any]) -> Record:
    record = parse_record(raw)
    verify_record(record)
    if record.kind is not RecordKind.NODE or record.deleted:
        raise SignatureInvalid("A registration carries the living node record of its sender.")
    check_url(node_body(record).url)
    return record


def _key(record: Record) -> bytes:
    return base64.b64decode(record.key)
