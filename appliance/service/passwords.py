"""Hashes of passwords, and which password was right lately.

argon2id (OWASP's floor: 19 MiB, two passes), at most two at a time. A password that was right is remembered for a
minute as an HMAC under a key of this process, so that a script's requests do not pay for it each time. It is remembered
together with the stored hash that it matched: whoever changes or removes an account, in whichever process, ends that.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

REMEMBERED_MS = 60_000
_MANY = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A sign-in that worked."""

    mark: bytes
    until: int  #: UTC milliseconds
    account: str  #: whose it is; who is of the directory may have typed another name
    stored: str  #: the hash that the password matched; "" if the directory checked it


class Passwords:
    """Hashes, checks and remembers passwords."""

    def __init__(self, now: Callable[[], int], hasher: PasswordHasher | None = None) -> None:
        self._now = now
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self.turn = asyncio.Semaphore(2)  #: to be held around `verify`
        self._key = secrets.token_bytes(32)
        self._remembered: dict[str, Remembered] = {}
        self.dummy = self._hasher.hash(secrets.token_hex(16))  #: for names that nobody has

    async def hash(self, password: str) -> str:
        """The hash to store."""
        async with self.turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, stored: str, password: str) -> bool:
        """Whether the password is that of the stored hash; hold `turn`."""
        try:
            return await asyncio.to_thread(self._hasher.verify, stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _mark(self, name: str, password: str) -> bytes:
        text = f"{name}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def remember(self, name: str, password: str, *, account: str, stored: str) -> None:
        """This name and password were right."""
        if len(self._remembered) >= _MANY:
            now = self._now()
            self._remembered = {key: value for key, value in self._remembered.items() if value.until > now}
        mark, until = self._mark(name, password), self._now() + REMEMBERED_MS
        self._remembered[name] = Remembered(mark=mark, until=until, account=account, stored=stored)

    def recall(self, name: str, password: str) -> Remembered | None:
        """What is remembered of this name, if it is with this very password."""
        found = self._remembered.get(name)
        if found is None or found.until <= self._now():
            return None
        return found if hmac.compare_digest(found.mark, self._mark(name, password)) else None

    def forget(self, account: str) -> None:
        """An account was changed."""
        self._remembered = {key: value for key, value in self._remembered.items() if value.account != account}
