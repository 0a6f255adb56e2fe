"""Who signs in, and what they may do, by what the directory says now."""

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from appliance.domain.errors import DirectoryUnavailable
from config.directory import Directory as Options

from .conversation import Conversation, Entry, ServerFailed, TooMany
from .grants import Grants
from .lookup import Person, account_name, find_person, groups_of
from .servers import Call, Health, Link, Servers

log = logging.getLogger(__name__)

MAX_PASSWORD = 1024  #: characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a test."""

    server: str  #: its URL
    name: str  #: "connect", "tls", "bind", "user", "password", "groups" or "role"
    ok: bool
    detail: str


class Directory:
    """The directory of the settings."""

    def __init__(self, options: Options, now: Callable[[], int]) -> None:
        """Make ready; nothing is asked yet.

        Raises:
            InvalidSettings: `directory.ca_file` cannot be read.
        """
        self.options = options
        self._servers = Servers(options, now)
        self._grants = Grants(options.groups)

    def health(self) -> list[Health]:
        """How each server did when it was last asked."""
        return self._servers.health()

    def close(self) -> None:
        """Let go of threads."""
        self._servers.close()

    async def sign_in(self, login: str, password: str) -> Person | None:
        """Check a password.

        For an unknown name a password is tried as well, so that both take the same steps.

        Returns:
            Who it is, or None if name or password are wrong. Without a grant the password was right.

        Raises:
            DirectoryUnavailable: No server answers.
        """
        if (
            not password or len(password) > MAX_PASSWORD
        ):  # an empty one would be a bind as nobody (RFC 4513, 5.1.2)
            return None
        return await self._servers.ask(lambda link: self._sign_in(link, login, password))

    def _sign_in(self, link: Link, login: str, password: str) -> Person | None:
        entry = self._find(link.conversation, login)
        second, _ = link.call.open(link.url)
        refusal = second.bind(entry.dn if entry else self._nobody(), password)
        if entry is None:
            return None
        if refusal:
            _tell("the directory refused a password", entry.dn, refusal)
            return None
        return self._person(link.conversation, entry, login)

    def _nobody(self) -> str:
        return f"cn=ods-{secrets.token_hex(8)},{self.options.base_dn}"

    async def find(self, login: str) -> Person | None:
        """Who is called so, without a password: to read groups again.

        Raises:
            DirectoryUnavailable: No server answers.
        """

        def ask(link: Link) -> Person | None:
            entry = self._find(link.conversation, login)
            return self._person(link.conversation, entry, login) if entry else None

        return await self._servers.ask(ask)

    def _find(self, conversation: Conversation, login: str) -> Entry | None:
        try:
            return find_person(conversation, self.options, login)
        except TooMany as exc:
            _tell("a name is that of several people", login, f"{exc.message}; narrow directory.user_filter")
            return None

    def _person(self, conversation: Conversation, entry: Entry, login: str) -> Person | None:
        name = account_name(entry, self.options)
        if not name:
            _tell("the directory knows somebody who can have no account", entry.dn, self._nameless(entry))
            return None
        groups = groups_of(conversation, self.options, entry, login)
        return Person(name=name, dn=entry.dn, grant=self._grants.of_all(groups))

    def _nameless(self, entry: Entry) -> str:
        found = entry.first(self.options.name_attribute)
        return (
            f'its {self.options.name_attribute} "{found}" is no account name (letters, digits and . _ @ -)'
            if found
            else f"it has no {self.options.name_attribute}, or bind_dn may not see it"
        )

    async def test(self, login: str = "", password: str = "") -> list[Step]:
        """Try every server, and on each that answers who is called so; a password only if one is given.

        Raises:
            DirectoryUnavailable: It took too long, or too much waits already.
        """

        def work(call: Call) -> list[Step]:
            return [step for url in self.options.servers for step in self._test(call, url, login, password)]

        return await self._servers.run(work)

    def _test(self, call: Call, url: str, login: str, password: str) -> Iterator[Step]:
        def step(name: str, detail: str, *, ok: bool = True) -> Step:
            return Step(server=url, name=name, ok=ok, detail=detail)

        try:
            conversation, protocol = call.open(url)
            yield step("connect", "it answers")
            yield step("tls", f"{protocol}, its certificate is good")
            call.sign_in(conversation)
            yield step("bind", self.options.bind_dn or "anonymous")
            self._servers.note(url)
            yield from self._test_person(lambda: call.open(url)[0], conversation, step, login, password)
        except ServerFailed as exc:
            if exc.step == "tls":
                yield step("connect", "it answers")
            self._servers.note(url, f"{exc.step}: {exc.message}")
            yield step(exc.step, exc.message, ok=False)
        except DirectoryUnavailable as exc:
            yield step("groups", exc.message, ok=False)
        finally:
            call.close()

    def _test_person(
        self,
        second: Callable[[], Conversation],
        conversation: Conversation,
        step: Callable[..., Step],
        login: str,
        password: str,
    ) -> Iterator[Step]:
        if not login:
            return
        try:
            entry = find_person(conversation, self.options, login)
        except TooMany as exc:
            yield step("user", f"{exc.message}: narrow user_filter", ok=False)
            return
        if entry is None:
            yield step("user", f"nobody below {self.options.base_dn} is found by user_filter", ok=False)
            return
        yield step("user", entry.dn)
        if password:
            refusal = second().bind(entry.dn, password)
            yield step("password", refusal or "it is right", ok=not refusal)
        name = account_name(entry, self.options)
        if not name:
            yield step("role", self._nameless(entry), ok=False)
            return
        groups = groups_of(conversation, self.options, entry, login)
        yield step("groups", "; ".join(group.dn for group in groups) or "none", ok=bool(groups))
        grant = self._grants.of_all(groups)
        if grant is None:
            yield step("role", "none of these groups is in directory.groups", ok=False)
        else:
            limit = f" of {', '.join(grant.stages)}" if grant.stages else ""
            yield step("role", f'"{name}" is {grant.role.word}{limit}')


def _tell(what: str, subject: str, reason: str) -> None:
    log.warning(what, extra={"action": "directory_refused", "subject": subject, "reason": reason})
