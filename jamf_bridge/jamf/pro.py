"""Records of the Pro API: listed in pages, filtered by the server, read as JSON."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from .errors import JamfIncomplete, JamfNotFound, JamfSurprise
from .records import Collection, Record
from .rsql import Expression, Field, matching
from .session import Session

PAGE = 200
MAX_PAGE = 2000
_READ_AGAIN = 6  #: a cluster may not know yet what it just created
_READ_AGAIN_S = 0.5
_LIST_AGAIN = 3  #: readings of a list whose pages do not fit together

P = TypeVar("P", bound="ProRecord")


class ProRecord(Record):
    """A record of the Pro API."""

    path: ClassVar[str]
    patchable: ClassVar[bool] = False  #: whether the server merges; else the whole record is replaced
    always: ClassVar[tuple[str, ...]] = ()  #: what a merge has to name as well
    read_only: ClassVar[frozenset[str]] = frozenset()

    @property
    def _url(self) -> str:
        return f"{self.path}/{quote(self.id, safe='')}"

    async def _get(self) -> dict[str, Any]:
        return _object(await self._session.json("GET", self._url), self._url)

    async def _save(self, changes: Mapping[str, Any]) -> None:
        sent = {name: value for name, value in changes.items() if name not in self.read_only}
        if self.patchable:
            if sent:
                named = {name: self._read[name] for name in self.always if name in self._read}
                await self._session.json("PATCH", self._url, json={**named, **sent})
            self._take({**await self._get()})
            return
        # The server replaces the record: what others changed since we read it must be in what we send.
        fresh = await self._get()
        whole = {name: value for name, value in {**fresh, **sent}.items() if name not in self.read_only}
        answer = await self._session.json("PUT", self._url, json=whole)
        self._take(dict(answer) if isinstance(answer, dict) and "id" in answer else {**fresh, **sent})

    async def delete(self) -> None:
        """Delete it in Jamf Pro, now."""
        await self._session.json("DELETE", self._url)


class ProCollection(Collection[P], Generic[P]):
    """Records of one kind of the Pro API."""

    defaults: ClassVar[Mapping[str, Any]] = {}  #: for fields that the server demands

    def __init__(self, session: Session, page_size: int = PAGE) -> None:
        super().__init__(session)
        self._page_size = max(1, min(page_size, MAX_PAGE))

    def _record(self, data: dict[str, Any]) -> P:
        return self.record(self._session, str(data["id"]), data)

    async def _all(self) -> AsyncIterator[P]:
        async for record in self._pages(None):
            yield record

    async def _pages(self, where: Expression | None) -> AsyncIterator[P]:
        """Every record once, by id; all or none.

        What is created or deleted meanwhile moves others to another page, and servers clamp the size of a page without
        a word: a page says nothing of what follows it. Only as many records as `totalCount`, the same on every page,
        are a list.

        Raises:
            JamfIncomplete: The server did not give all records, again and again.
        """
        size = self._page_size
        for attempt in range(1, _LIST_AGAIN + 1):
            found, total, whole, first = await self._collected(where, size)
            if whole:
                break
            size = (
                min(size, first) or size
            )  # perhaps it clamps the page and counts pages by the size that was asked
            if attempt == _LIST_AGAIN:
                raise JamfIncomplete(
                    f"Jamf Pro listed {len(found)} of {total} records; the list was not used.",
                    call=f"GET {self.record.path}",
                )
        for data in found.values():
            yield self._record(data)

    async def _collected(
        self, where: Expression | None, size: int
    ) -> tuple[dict[str, dict[str, Any]], int, bool, int]:
        """One reading of all pages.

        Returns:
            Records by id, the last `totalCount`, whether the pages fit together, and the length of the first.
        """
        found: dict[str, dict[str, Any]] = {}
        totals: set[int] = set()
        page = first = 0
        while True:
            results, total = await self._page(page, where, size)
            totals.add(total)
            before = len(found)
            first = first or len(results)
            for data in results:
                found.setdefault(str(data["id"]), data)
            page += 1
            if len(found) >= total or len(found) == before:
                return found, total, len(found) == total and len(totals) == 1, first

    async def _page(self, page: int, where: Expression | None, size: int) -> tuple[list[dict[str, Any]], int]:
        params: dict[str, Any] = {"page": page, "page-size": size, "sort": "id:asc"}
        if where is not None:
            params["filter"] = str(where)
        answer = _object(await self._session.json("GET", self.record.path, params=params), self.record.path)
        results, total = answer.get("results"), answer.get("totalCount")
        if not isinstance(results, list) or not isinstance(total, int) or total < 0:
            raise JamfSurprise("A list without results or totalCount.", call=f"GET {self.record.path}")
        return [dict(item) for item in results if isinstance(item, dict) and "id" in item], total

    async def count(self) -> int:
        """How many there are; one request."""
        params = {"page": 0, "page-size": 1}
        answer = _object(await self._session.json("GET", self.record.path, params=params), self.record.path)
        return int(answer.get("totalCount") or 0)

    async def filter(self, expression: Expression | None = None, /, **fields: object) -> list[P]:
        """Records that match, found by the server.

        Args:
            expression: Made of `Field`s with `&` and `|`.
            **fields: Field to value, all of which must match; a list means one of its values.
        """
        where = expression if not fields else matching(fields)
        if expression is not None and fields:
            where = expression & matching(fields)
        return [record async for record in self._pages(where)]

    async def recordsWithName(self, name: str) -> list[P]:  # noqa: N802 - python-jamf's name
        """All records of this name, found by the server."""
        found = await self.filter(Field(self.record.name_field).eq(name))
        return [record for record in found if record.name == name]

    async def recordWithId(self, id: str | int) -> P:  # noqa: N802 - python-jamf's name
        """One record.

        Raises:
            JamfNotFound: There is none of this id.
        """
        record = self.record(self._session, str(id), {})
        await record.refresh()
        return record

    async def create(self, data: Mapping[str, Any]) -> P:
        """Create a record, now, and return it as Jamf Pro keeps it.

        Raises:
            JamfConflict: The name is taken.
            JamfInvalid: A field is missing or wrong.
        """
        answer = _object(
            await self._session.json("POST", self.record.path, json={**self.defaults, **data}), "POST"
        )
        if not answer.get("id"):
            raise JamfSurprise("The created record has no id.", call=f"POST {self.record.path}")
        for attempt in range(1, _READ_AGAIN + 1):
            try:
                return await self.recordWithId(str(answer["id"]))
            except JamfNotFound:
                if attempt == _READ_AGAIN:
                    raise
                await asyncio.sleep(_READ_AGAIN_S)
        raise AssertionError("the loop returns or raises")


def _object(answer: Any, path: str) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise JamfSurprise("The answer is no JSON object.", call=path)
    return answer


class Package(ProRecord):
    """A package record. Jamf Pro does not check the hashes that it is given."""

    path = "/api/v1/packages"
    name_field = "packageName"
    read_only = frozenset({"id", "size", "indexed", "cloudTransferStatus"})

    async def history(self) -> list[dict[str, Any]]:
        """The entries of its history, newest first: id, username, date, note, details."""
        params = {"page": 0, "page-size": 100, "sort": "date:desc"}
        answer = _object(await self._session.json("GET", f"{self._url}/history", params=params), self._url)
        return [dict(item) for item in answer.get("results") or []]

    async def add_history_note(self, text: str) -> None:
        """Leave a note in its history."""
        await self._session.json("POST", f"{self._url}/history", json={"note": text})

    async def upload(self, path: str, *, name: str = "") -> None:
        """Send a file to Jamf Pro's principal cloud distribution point; it is read in blocks, whatever its size.

        Args:
            path: The file.
            name: The name that it is sent under, if not its own.
        """
        with open(path, "rb") as file:  # noqa: ASYNC230 - httpx reads it in blocks
            files = {"file": (name or path.rpartition("/")[2], file, "application/octet-stream")}
            await self._session.json("POST", f"{self._url}/upload", files=files, timeout=None)


class Packages(ProCollection[Package]):
    """All package records."""

    record = Package
    defaults: ClassVar[Mapping[str, Any]] = {
        "categoryId": "-1",
        "priority": 10,
        "fillUserTemplate": False,
        "suppressEula": False,
        "suppressUpdates": False,
        "rebootRequired": False,
        "osInstall": False,
        "suppressRegistration": False,
        "suppressFromDock": False,
    }


class DistributionPoint(ProRecord):
    """A file share distribution point (from Jamf Pro 11.16 on). Its passwords can be written and never read."""

    path = "/api/v1/distribution-points"
    patchable = True
    always = ("name", "serverName", "fileSharingConnectionType")
    read_only = frozenset({"id"})


class DistributionPoints(ProCollection[DistributionPoint]):
    """All file share distribution points."""

    record = DistributionPoint
    defaults: ClassVar[Mapping[str, Any]] = {"fileSharingConnectionType": "NONE", "principal": False}


class Category(ProRecord):
    """A category."""

    path = "/api/v1/categories"
    read_only = frozenset({"id"})


class Categories(ProCollection[Category]):
    """All categories."""

    record = Category
    defaults: ClassVar[Mapping[str, Any]] = {"priority": 9}
