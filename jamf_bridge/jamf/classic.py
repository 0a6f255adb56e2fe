"""Records of the Classic API: listed by id and name, read as JSON, written as XML."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from .errors import JamfSurprise
from .records import Collection, Record
from .xml import id_of, to_xml

C = TypeVar("C", bound="ClassicRecord")


class ClassicRecord(Record):
    """A record of the Classic API. A write merges: elements that are left out keep their value."""

    plural: ClassVar[str]  #: in paths and lists
    singular: ClassVar[str]  #: the XML element

    @property
    def _url(self) -> str:
        return f"/JSSResource/{self.plural}/id/{self.id}"

    async def _get(self) -> dict[str, Any]:
        answer = await self._session.json("GET", self._url)
        found = answer.get(self.singular) if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            raise JamfSurprise(f"The answer has no {self.singular}.", call=f"GET {self._url}")
        return dict(found)

    async def _save(self, changes: Mapping[str, Any]) -> None:
        body = to_xml(self.singular, changes)
        await self._session.call("PUT", self._url, content=body, headers=_XML)
        self._take({**self.data})

    async def delete(self) -> None:
        """Delete it in Jamf Pro, now."""
        await self._session.call("DELETE", self._url)


_XML = {"Content-Type": "text/xml", "Accept": "text/xml"}


class ClassicCollection(Collection[C], Generic[C]):
    """Records of one kind of the Classic API. The list has ids and names alone: `refresh` a record for the rest."""

    details: ClassVar[bool] = False  #: whether iterating reads each record whole

    async def _all(self) -> AsyncIterator[C]:
        path = f"/JSSResource/{self.record.plural}"
        answer = await self._session.json("GET", path)
        lists = (
            [value for value in answer.values() if isinstance(value, list)]
            if isinstance(answer, dict)
            else []
        )
        found = lists[0] if lists else None  # called as the path is, or as its words are: network_segments
        if found is None:
            raise JamfSurprise("A list without records.", call=f"GET {path}")
        for item in found:
            record = self.record(self._session, str(item["id"]), dict(item))
            if self.details:
                await record.refresh()
            yield record

    async def recordWithId(self, id: str | int) -> C:  # noqa: N802 - python-jamf's name
        """One record.

        Raises:
            JamfNotFound: There is none of this id.
        """
        record = self.record(self._session, str(int(id)), {})
        await record.refresh()
        return record

    async def create(self, data: Mapping[str, Any]) -> C:
        """Create a record, now, and return it as Jamf Pro keeps it.

        Raises:
            JamfConflict: The name is taken, or a field contradicts another.
        """
        path = f"/JSSResource/{self.record.plural}/id/0"
        _, _, body = await self._session.call(
            "POST", path, content=to_xml(self.record.singular, data), headers=_XML
        )
        # The outer element is not always called as the record is (file_share_distribution_point).
        return await self.recordWithId(id_of(body))


class WebHook(ClassicRecord):
    """A webhook: one event, one URL."""

    plural, singular = "webhooks", "webhook"


class WebHooks(ClassicCollection[WebHook]):
    """All webhooks."""

    record = WebHook


class NetworkSegment(ClassicRecord):
    """A network segment: which addresses use which distribution point."""

    plural, singular = "networksegments", "network_segment"


class NetworkSegments(ClassicCollection[NetworkSegment]):
    """All network segments."""

    record = NetworkSegment
    details = True


class ClassicDistributionPoint(ClassicRecord):
    """A distribution point before Jamf Pro 11.16."""

    plural, singular = "distributionpoints", "distribution_point"


class ClassicDistributionPoints(ClassicCollection[ClassicDistributionPoint]):
    """All distribution points, by the Classic API."""

    record = ClassicDistributionPoint
    details = True
