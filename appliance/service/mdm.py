"""What the admin API and the hook handler ask of the MDM bridge. The bridge implements it; the API knows nothing else.

Servers come as plain dictionaries, as the bridge shows them: "id", "name", "kind", "enabled", "state", "reason",
"revision", the sections "settings", "intake", "mirror", "points" and "webhooks", "hook_path", "hook_secret" and
"health" (times in UTC milliseconds). Secrets are masked in all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.domain.job import Job

Shown = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a check."""

    what: str
    ok: bool
    detail: str = ""  #: what was found, or what to do
    privilege: str = ""  #: exactly as the MDM calls it, when it is missing
    needed_for: str = ""  #: "", "in", "out", "points", "webhooks"
    needed: bool = False  #: whether this configuration needs it


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found."""

    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether everything works that the configuration needs."""
        return all(line.ok or not line.needed for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A page of a list."""

    items: Sequence[Shown]
    next: tuple[str, str] | None = None  #: the place behind which the next page begins


class MdmPort(Protocol):
    """The MDM bridge. `name` is a server's id or its name; all that take one may raise `ServerUnknown`."""

    def kinds(self) -> list[Shown]:
        """For each kind of server "kind", "title", "settings" and "config": JSON schemas of what an admin sets."""

    async def servers(self) -> list[Shown]:
        """Every configured server."""

    async def server(self, name: str) -> Shown:
        """One server."""

    async def add(self, fields: Mapping[str, Any], *, actor: str) -> Shown:
        """Add a server and queue its first sync.

        Raises:
            InvalidInput: The fields cannot be used; the message names each and says why.
            ServerExists: There is one of this name.
        """

    async def change(
        self, name: str, fields: Mapping[str, Any], *, actor: str, expect_revision: int | None
    ) -> Shown:
        """Merge fields into a server's configuration, and queue a sync.

        In a section, what is absent stays and null goes back to the default. Secrets that are absent, empty or the
        mask stay; null removes one.

        Raises:
            InvalidInput: As for `add`.
            ServerExists: Another server has this name.
            StaleRevision: The configuration is at another revision than the one that was expected.
        """

    async def remove(self, name: str, *, expect_revision: int | None = None, actor: str) -> None:
        """Forget a server and all that is known of it. In the MDM nothing changes.

        Raises:
            StaleRevision: The configuration is at another revision than the one that was expected.
        """

    async def check(self, fields: Mapping[str, Any], *, name: str = "") -> Report:
        """Try a configuration that is not saved, changing nothing anywhere.

        Args:
            fields: As for `add`; with a name, as for `change`.
            name: The server that would be changed.

        Raises:
            InvalidInput: As for `add`.
        """

    async def sync(self, name: str, *, verify: bool) -> Job:
        """Queue a sync, or join the one that is queued; return its job.

        Args:
            name: The server.
            verify: Whether every record's hashes are checked again.

        Raises:
            InvalidTransition: The server is switched off or paused.
        """

    async def pause(self, name: str, *, seconds: int | None, actor: str) -> Shown:
        """Ask nothing of a server for so long; None: until it is resumed."""

    async def resume(self, name: str, *, actor: str) -> Shown:
        """End a pause, if there is one, and queue a sync."""

    async def packages(
        self, name: str, *, direction: str, state: str, limit: int, after: tuple[str, str] | None
    ) -> Rows:
        """What is known of package records: first what came in, then what was mirrored out.

        Args:
            name: The server.
            direction: "in", "out" or "" for both.
            state: Only in this state, such as pulled, mirrored, conflict, failed, quarantined; "" for all.
            limit: At most so many.
            after: `Rows.next` of the page before.

        Returns:
            Items with "direction", "state", "file_name", "package", "remote", "ours", "error" and "at" (UTC ms).
        """

    async def records_of(self, package: str, file_name: str) -> list[Shown]:
        """What every server knows of one package: rows as of `packages`, with "server" and "server_name".

        Args:
            package: Its id.
            file_name: Its name, by which records of an MDM are found.
        """

    async def points(self, name: str) -> list[Shown]:
        """The nodes' distribution point records: "node", "name", "remote", "ours", "state", "error", "at" (UTC ms)."""

    async def segments(self, name: str) -> list[Shown]:
        """Network segments with a suggestion: "name", "start", "end", "distribution_point", "suggestion".

        Raises:
            MdmError: The server did not answer.
        """

    async def register_webhooks(self, name: str, *, actor: str) -> Report:
        """Create or mend our webhooks in the MDM now; a line for each event.

        Raises:
            InvalidInput: No URL is set under which the MDM reaches this node.
            MdmError: The server did not do it.
        """

    async def remove_webhooks(self, name: str, *, actor: str) -> int:
        """Delete our webhooks in the MDM; return how many.

        Raises:
            InvalidInput: As for `register_webhooks`.
            MdmError: The server did not do it.
        """

    async def admit_hook(
        self, server_id: str, *, path_secret: str, headers: Mapping[str, str], address: str
    ) -> int:
        """Whether a webhook may come in, before its body is read: 202, 401 (wrong secret) or 404 (no such server)."""

    async def take_hook(self, server_id: str, *, content_type: str, body: bytes) -> int:
        """Queue what an admitted webhook asks for: 202, 400 (not a webhook), 404, 413, or 502 (there is no driver)."""
