"""Accounts of people whom the directory knows: made when they come, kept in step with their groups.

Such an account has no password here. It carries role and stages as the directory gave them last, so that its sessions
and API tokens work like all others; they are read again at each sign-in and every `directory.recheck_s`. Who has no
role any more is blocked, with tokens and sessions, and nothing of theirs is deleted: it works again when they are back.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from appliance.domain.errors import DirectoryUnavailable, DuplicateKey, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.jobs.new import new_job
from appliance.store.ports import Doc, Insert, Operation, Replace, Store

from .directory import Directory, Person
from .journal import SYSTEM, entry

log = logging.getLogger(__name__)

SOURCE = "directory"
RECHECK_JOB = "directory.recheck"
_TRIES = 5


def recheck_job(now: int) -> Job:
    """The job that runs `Newcomers.recheck`."""
    return new_job("default", RECHECK_JOB, now)


def of_directory(doc: Doc) -> bool:
    """Whether an account is one of the directory."""
    return bool(doc.get("source") == SOURCE)


class Newcomers:
    """Keeps the accounts of the directory.

    Args:
        store: Where accounts are kept.
        directory: Who is asked, None if the settings name no server.
        now: UTC milliseconds.
    """

    def __init__(self, store: Store, directory: Directory | None, now: Callable[[], int]) -> None:
        self._store = store
        self.directory = directory
        self._now = now

    async def admit(self, person: Person, login: str) -> Doc | None:
        """Make or change the account of somebody who has a role.

        Args:
            person: As the directory knows them, with a grant.
            login: What they typed.

        Returns:
            The account, or None if a local account has their name: that one is not theirs.
        """
        assert person.grant is not None
        given = {"role": person.grant.role.word, "stages": list(person.grant.stages), "blocked": False}
        for attempt in range(_TRIES):
            doc = await self._store.get("accounts", person.name)
            if doc is not None and not of_directory(doc):
                log.warning(
                    "somebody of the directory has the name of a local account",
                    extra={"action": "directory_refused", "subject": person.dn, "account": person.name},
                )
                return None
            try:
                stored = await self._store.batch(self._steps(person, login, doc, given))
            except (DuplicateKey, StaleRevision):
                if attempt == _TRIES - 1:
                    raise
                continue
            return stored[0]
        return None

    def _steps(self, person: Person, login: str, doc: Doc | None, given: dict[str, Any]) -> list[Operation]:
        now = self._now()
        fresh = {"login": login, "dn": person.dn, "checked_at": now}
        if doc is None:
            made = {
                "_id": person.name,
                "source": SOURCE,
                "password": "",
                "must_change": False,
                "created_at": now,
                "changed_at": now,
                **given,
                **fresh,
            }
            return [Insert("accounts", made), self._told(person.name, "came from the directory", given)]
        before = {name: doc.get(name) for name in given}
        if before == given:
            return [Replace("accounts", {**doc, **fresh}, doc["_rev"])]
        changed = {**doc, **fresh, **given, "changed_at": now}
        event = self._told(person.name, "changed in the directory", given, before=before, after=given)
        return [Replace("accounts", changed, doc["_rev"]), event]

    async def block(self, name: str) -> None:
        """Somebody has no role any more: their sessions and tokens end, until they have one again."""
        doc = await self._store.get("accounts", name)
        if doc is None or not of_directory(doc) or doc["blocked"]:
            return
        changed = {**doc, "blocked": True, "changed_at": self._now(), "checked_at": self._now()}
        event = self._told(name, "blocked: the directory gives it no role", changed)
        with contextlib.suppress(StaleRevision):  # they signed in at this moment; the next check decides
            await self._store.batch([Replace("accounts", changed, doc["_rev"]), event])

    def _told(self, name: str, change: str, doc: dict[str, Any], **data: object) -> Insert:
        return entry(
            EventType.ACCOUNT_CHANGED,
            at=self._now(),
            actor=SYSTEM,
            subject=name,
            change=change,
            role=doc["role"],
            **data,
        )

    async def recheck(self) -> None:
        """Read the groups of everybody who came earlier, and block who has no role any more.

        While the directory does not answer, everything stays as it is. Without a directory in the settings
        all of its accounts are blocked.
        """
        for doc in await self._store.find("accounts", limit=10_000):
            if not of_directory(doc):
                continue
            name = doc["_id"]
            try:
                person = await self.directory.find(doc["login"]) if self.directory else None
            except DirectoryUnavailable as exc:
                log.warning(
                    "accounts of the directory were not checked",
                    extra={"action": "directory_recheck", "reason": exc.message},
                )
                return
            if person is not None and person.name == name and person.grant is not None:
                await self.admit(person, doc["login"])
            else:
                await self.block(name)
