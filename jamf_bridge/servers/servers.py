"""The configured MDM servers: add, change, remove, read, and the driver of each."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.domain.errors import InvalidInput, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.mdm_errors import MdmNeedsAttention, ServerExists, ServerUnknown
from appliance.service.journal import entry
from appliance.service.secrets import SecretBox
from appliance.store.paging import every
from appliance.store.ports import Doc, Enqueue, Insert, Operation, Remove, Store

from ..driver import Driver
from ..jobs import sync_job
from .configuring import checked, merged
from .differences import differences
from .documents import sealed_parts, server_of
from .drivers import DriverCache
from .health import COLLECTION, ServerHealth
from .registry import Registry
from .secret_fields import MASK, masked, secret_places
from .server import Server, ServerState

_OWN_ROWS = ("mdm_remote", "mdm_links", "mdm_versions", "mdm_points")
_HOOK_SECRET = re.compile(r"[A-Za-z0-9._~-]{16,128}")  #: it may be the last part of a URL


class Servers(ServerHealth):
    """All configured servers. It keeps nothing of them but their drivers: the store is asked each time."""

    def __init__(
        self,
        store: Store,
        box: SecretBox,
        now: Callable[[], int],
        registry: Registry,
        *,
        stages: Sequence[str] = (),
    ) -> None:
        """Make it.

        Args:
            store: Where they are.
            box: Encrypts their secrets.
            now: UTC milliseconds.
            registry: The drivers that are installed.
            stages: The network's, to check the configuration by; empty: it is not checked.
        """
        super().__init__(store, now)
        self._box = box
        self._registry = registry
        self._stages = tuple(stages)
        self._drivers = DriverCache(registry)

    async def all(self) -> list[Server]:
        """Every server, by name."""
        found = [self._server(doc) async for doc in every(self._store, COLLECTION)]
        return sorted(found, key=lambda server: server.config.name.casefold())

    async def get(self, id: str) -> Server:
        """One server.

        Raises:
            ServerUnknown: There is none of this id.
        """
        doc = await self._store.get(COLLECTION, id)
        if doc is None:
            raise ServerUnknown(f"There is no MDM server {id}.", server=id)
        return self._server(doc)

    async def resolve(self, name: str) -> Server:
        """A server by its id or its name, in any case.

        Raises:
            ServerUnknown: There is none.
        """
        for server in await self.all():
            if server.id == name or server.config.name.casefold() == name.casefold():
                return server
        raise ServerUnknown(f'There is no MDM server "{name}".', server=name)

    def _server(self, doc: Doc) -> Server:
        return server_of(doc, box=self._box, registry=self._registry, now=self._now())

    def draft(self, fields: Mapping[str, Any], base: Server | None = None) -> Server:
        """A server as it would be with these fields; nothing is kept.

        Args:
            fields: As for `add`, or as for `change` with a `base`.
            base: The server that is changed.

        Raises:
            InvalidInput: It cannot be used; the message names each field and says why.
        """
        sent = dict(fields)
        hook_secret = _hook_secret(sent.pop("hook_secret", None)) or (base.hook_secret if base else "")
        current = base.config.model_dump(mode="json") if base else {}
        kind = str(current.get("kind") or sent.get("kind") or "")
        if base and sent.get("kind", kind) != kind:
            raise InvalidInput("kind: it does not change; remove the server and add another.")
        whole = merged(current, sent, self._registry.factory(kind))
        config = checked(whole, self._registry, stages=self._stages)
        return Server(
            id=base.id if base else secrets.token_hex(4),
            config=config,
            hook_secret=hook_secret or secrets.token_urlsafe(32),
            health=base.health if base else {},
            rev=base.rev if base else 0,
        )

    async def add(self, fields: Mapping[str, Any], *, actor: str) -> Server:
        """Add a server and queue its first sync.

        Args:
            fields: Those of `ServerConfig`, and "hook_secret" if webhooks are set up by hand.
            actor: Who does it.

        Raises:
            InvalidInput: They cannot be used; the message names each field and says why.
            ServerExists: There is one of this name.
        """
        server = self.draft(fields)
        async with self._writing:
            await self._name_is_free(server)
            doc = {"_id": server.id, **self._configured(server, 1), "health": {}, "asked": []}
            await self._store.batch(
                [
                    Insert(COLLECTION, doc),
                    self._event(EventType.MDM_ADDED, server, actor),
                    Enqueue(sync_job(server.id, self._now(), reason="added")),
                ]
            )
        self.generation += 1
        return await self.get(server.id)

    async def change(
        self, id: str, fields: Mapping[str, Any], *, actor: str, expect_revision: int | None = None
    ) -> Server:
        """Change the configuration, forget what was wrong with the old one, and queue a sync.

        Args:
            id: The server.
            fields: Sections are merged field by field, null goes back to the default. A secret that is absent, empty
                or the mask stays as it is; null removes it.
            actor: Who does it.
            expect_revision: Change only this revision of the configuration.

        Raises:
            ServerUnknown: There is no such server.
            InvalidInput: They cannot be used; the message names each field and says why.
            ServerExists: Another server has this name.
            StaleRevision: The configuration is at another revision.
        """

        def write(doc: Doc) -> list[Operation]:
            base = self._server(doc)
            if expect_revision is not None and base.rev != expect_revision:
                raise StaleRevision(
                    f"The server is at revision {base.rev}, not {expect_revision}: somebody else changed it. Read it "
                    "again.",
                    revision=base.rev,
                )
            changed = self.draft(fields, base)
            taken = [one for one in others if one.id != id and _same_name(one, changed)]
            if taken:
                raise ServerExists(f'Another MDM server is called "{changed.config.name}".')
            doc.update(self._configured(changed, base.rev + 1))
            return [
                self._event(
                    EventType.MDM_CHANGED,
                    changed,
                    actor,
                    fields=sorted(fields),
                    **differences(base, changed, secret_places(self._registry.factory(base.config.kind))),
                ),
                Enqueue(sync_job(id, self._now(), reason="changed")),
            ]

        async with self._writing:
            others = await self.all()
            await self.edit_locked(id, write)
        self.generation += 1
        server = await self.get(id)
        self._drivers.retire(server)
        return server

    async def remove(self, id: str, *, expect_revision: int | None = None, actor: str) -> None:
        """Forget a server and all that is known of it; in the MDM nothing changes.

        Raises:
            ServerUnknown: There is no such server.
            StaleRevision: The configuration is at another revision than the one that was expected.
        """
        async with self._writing:
            server = await self.get(id)
            if expect_revision is not None and server.rev != expect_revision:
                raise StaleRevision(
                    f"The server is at revision {server.rev}, not {expect_revision}; read it again."
                )
            await self._store.batch(
                [Remove(COLLECTION, id), self._event(EventType.MDM_REMOVED, server, actor)]
            )
        self.generation += 1
        self._drivers.drop(id)
        for collection in _OWN_ROWS:
            await self._store.delete(collection, {"server": id})

    async def _name_is_free(self, server: Server) -> None:
        if any(_same_name(other, server) for other in await self.all()):
            raise ServerExists(f'An MDM server is called "{server.config.name}"; choose another name.')

    def _configured(self, server: Server, revision: int) -> Doc:
        """The parts of a document that the configuration decides; what was wrong is forgotten."""
        parts = sealed_parts(
            server.config.model_dump(mode="json"), server.hook_secret, box=self._box, registry=self._registry
        )
        return {**parts, "revision": revision, "state": str(ServerState.CONNECTED), "reason": ""}

    def _event(self, type: EventType, server: Server, actor: str, **facts: Any) -> Operation:
        facts |= {"name": server.config.name, "kind": server.config.kind}
        return entry(type, at=self._now(), actor=actor, subject=server.id, **facts)

    def shown(self, server: Server) -> dict[str, Any]:
        """A server as it may leave the process: `MASK` for each secret that is set.

        Returns:
            "id", "revision", "state", "reason", "health" (times in UTC milliseconds), "hook_path", "hook_secret", and
            the fields of `ServerConfig`.
        """
        places = secret_places(self._registry.factory(server.config.kind))
        config = masked(server.config.model_dump(mode="json"), places)
        if self._registry.factory(server.config.kind) is None:
            config["settings"] = dict.fromkeys(config["settings"], MASK)  # nobody can tell what is secret
        return {
            "id": server.id,
            "revision": server.rev,
            "state": str(server.state),
            "reason": server.reason,
            "health": dict(server.health),
            "hook_path": f"/hooks/{server.id}",
            "hook_secret": MASK if server.hook_secret else "",
            **config,
        }

    async def driver(self, id: str) -> Driver:
        """The driver of a server: one as long as its settings stay, closed when they change.

        Raises:
            ServerUnknown: There is no such server.
            MdmNeedsAttention: There is no driver for it, or it does not take the settings; this was noted.
        """
        server = await self.get(id)
        try:
            return self._drivers.of(server)
        except MdmNeedsAttention as exc:
            await self.attention(id, exc)
            raise

    def driver_of(self, server: Server) -> Driver:
        """As `driver`, for a server that was just read; a failure is not noted."""
        return self._drivers.of(server)

    def fresh_driver(self, server: Server) -> Driver:
        """A driver of its own, for a configuration that is only tried; the caller closes it.

        Raises:
            MdmNeedsAttention: As for `driver`.
        """
        return self._drivers.make(server)

    async def close(self) -> None:
        """Close all drivers."""
        await self._drivers.close()


def _same_name(one: Server, other: Server) -> bool:
    return one.config.name.casefold() == other.config.name.casefold()


def _hook_secret(sent: Any) -> str:
    if sent in (None, "", MASK):
        return ""
    if not isinstance(sent, str) or not _HOOK_SECRET.fullmatch(sent):
        raise InvalidInput("hook_secret: use 16 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
    return sent
