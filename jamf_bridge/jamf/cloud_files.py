"""Files in Jamf's own cloud (JCDS): listed with size and digest, downloaded by signed URLs.

These calls are deprecated since 2025-08-28 and have no successor that downloads; a server without them answers
`JamfNotFound`, and nothing else depends on them.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from .download import Download, SignedUrl
from .errors import JamfIncomplete, JamfNotFound, JamfSurprise
from .session import Session

_PATH = "/api/v1/jcds/files"


@dataclass(frozen=True, slots=True)
class CloudFile:
    """A file in Jamf's cloud."""

    file_name: str
    length: int  #: bytes
    md5: str  #: hex
    sha3: str  #: SHA3-512 in hex
    region: str
    _download: Callable[[str, int], Download]

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `offset` on; the caller checks the digest.

        Lost connections and expired URLs are gone over. It never gives more bytes than the length.

        Raises:
            JamfError: It could not go on.
        """
        async for block in self._download(self.file_name, self.length).stream(offset):
            yield block


class CloudFiles(Mapping[str, CloudFile]):
    """The files by name, after `refresh`."""

    def __init__(
        self, session: Session, client: Callable[[], httpx.AsyncClient], allowed: Callable[[str], None]
    ) -> None:
        self._session = session
        self._client = client
        self._allowed = allowed
        self._files: dict[str, CloudFile] = {}

    def __getitem__(self, file_name: str) -> CloudFile:
        return self._files[file_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    async def refresh(self) -> "CloudFiles":
        """Read the list; one request, however many there are."""
        answer = await self._session.json("GET", _PATH)
        if not isinstance(answer, list):
            raise JamfSurprise("The list of cloud files is no list.", call=f"GET {_PATH}")
        items = (item for item in answer if isinstance(item, dict) and item.get("fileName"))
        self._files = {str(item["fileName"]): self._file(item) for item in items}
        return self

    def _file(self, item: Mapping[str, Any]) -> CloudFile:
        length = item.get("length")
        return CloudFile(
            file_name=str(item["fileName"]),
            length=length if isinstance(length, int) and length > 0 else 0,
            md5=str(item.get("md5") or "").lower(),
            sha3=str(item.get("sha3") or "").lower(),
            region=str(item.get("region") or ""),
            _download=self._download,
        )

    def file(self, file_name: str, *, length: int, sha3: str = "", md5: str = "") -> CloudFile:
        """A file that was listed earlier, without listing again."""
        return CloudFile(file_name, length, md5, sha3, "", self._download)

    def _download(self, file_name: str, length: int) -> Download:
        return Download(lambda: self.url(file_name), length, self._client(), file_name=file_name)

    async def url(self, file_name: str) -> SignedUrl:
        """A URL from which the file can be fetched for a while, without any further credentials.

        Raises:
            JamfNotFound: There is no such file.
            JamfSurprise: The URL leads where nothing may be fetched from.
        """
        path = f"{_PATH}/{quote(file_name, safe='')}"
        answer = await self._session.json("GET", path)
        uri = answer.get("uri") if isinstance(answer, dict) else None
        if not isinstance(uri, str) or not uri:
            raise JamfNotFound(
                f'Jamf Pro gives no URL for "{file_name}".', call="GET /api/v1/jcds/files/{fileName}"
            )
        self._allowed(uri)
        return SignedUrl.of(uri)


class CloudInventory:
    """The cloud distribution point's own list: what is there, and whether it is ready. It knows no sizes or digests."""

    _PATH = "/api/v1/cloud-distribution-point"

    def __init__(self, session: Session, page_size: int = 200) -> None:
        self._session = session
        self._page_size = page_size

    async def files(self) -> list[dict[str, Any]]:
        """Every file: fileName, status (READY, PENDING, ERROR), type, fileObjectId (the package's id)."""
        found: list[dict[str, Any]] = []
        page = 0
        while True:
            params = {"page": page, "page-size": self._page_size, "sort": "id:asc"}
            answer = await self._session.json("GET", f"{self._PATH}/files", params=params)
            results = answer.get("results") if isinstance(answer, dict) else None
            if not isinstance(results, list):
                raise JamfSurprise("A list without results.", call=f"GET {self._PATH}/files")
            found += results
            page += 1
            total = int(answer.get("totalCount") or 0)
            if len(found) >= total:
                return found
            if not results:
                raise JamfIncomplete(
                    f"Jamf Pro listed {len(found)} of {total} files; the list was not used.",
                    call=f"GET {self._PATH}/files",
                )

    async def refresh(self, file_name: str | None = None) -> None:
        """Have Jamf Pro look at its cloud again: at one file, or at all (at most once in 15 s)."""
        params = {"file-name": file_name} if file_name else {}
        await self._session.call("POST", f"{self._PATH}/refresh-inventory", params=params)
