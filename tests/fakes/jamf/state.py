"""What the fake Jamf Pro keeps, and the rules that its answers follow."""

import hashlib
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

ALL_PRIVILEGES = [
    *(f"{verb} {area}" for area in ("Packages", "Categories", "Distribution Points", "Webhooks") for verb in
      ("Create", "Read", "Update", "Delete")),
    "Read Cloud Distribution Point",
    "Update Cloud Distribution Point",
    "Read Network Segments",
    *(f"{verb} Jamf Cloud Distribution Service Files" for verb in ("Create", "Read", "Delete")),
]  # fmt: skip

PACKAGE_DEFAULTS: dict[str, Any] = {
    "packageName": "", "fileName": "", "categoryId": "-1", "info": "", "notes": "", "priority": 10,
    "osRequirements": "",
    "fillUserTemplate": False, "indexed": False, "fillExistingUsers": False, "swu": False, "rebootRequired": False,
    "selfHealNotify": False, "selfHealingAction": "nothing", "osInstall": False, "serialNumber": "", "parentPackageId":
    "-1", "basePath": "", "suppressUpdates": False, "cloudTransferStatus": "", "ignoreConflicts": False,
    "suppressFromDock": False, "suppressEula": False, "suppressRegistration": False, "installLanguage": "en_US",
    "md5": "",
    "sha256": "", "sha3512": "", "hashType": "SHA_512", "hashValue": "", "size": "", "osInstallerVersion": "",
    "manifest": "", "manifestFileName": "", "format": "",
}  # fmt: skip
PACKAGE_REQUIRED = (
    "packageName", "fileName", "categoryId", "priority", "fillUserTemplate", "rebootRequired", "osInstall",
    "suppressUpdates", "suppressFromDock", "suppressEula", "suppressRegistration",
)  # fmt: skip
READ_ONLY = {"id", "indexed", "cloudTransferStatus", "size"}
MAX_JOURNAL = 50_000


class Content:
    """The bytes of a cloud file: given, or made from a seed as they are asked for."""

    BLOCK = 65_536

    def __init__(self, *, data: bytes | None = None, size: int = 0, seed: int = 0) -> None:
        self._data = data
        self.size = len(data) if data is not None else size
        self._seed = hashlib.sha256(str(seed).encode()).digest()
        self._digests: dict[str, str] | None = None

    def read(self, first: int, count: int) -> bytes:
        """Bytes from `first` on, at most up to the end."""
        count = max(0, min(count, self.size - first))
        if self._data is not None:
            return self._data[first : first + count]
        found = bytearray()
        block = first // self.BLOCK
        while len(found) < count + first % self.BLOCK:
            found += self._block(block)
            block += 1
        start = first % self.BLOCK
        return bytes(found[start : start + count])

    def _block(self, number: int) -> bytes:
        key = hashlib.sha256(self._seed + number.to_bytes(8, "big")).digest()
        return key * (self.BLOCK // len(key))

    def digests(self) -> dict[str, str]:
        """MD5 and SHA3-512 of all bytes."""
        if self._digests is None:
            hashes = {"md5": hashlib.md5(usedforsecurity=False), "sha3": hashlib.sha3_512()}
            for first in range(0, self.size, 1 << 20):
                data = self.read(first, 1 << 20)
                for hash in hashes.values():
                    hash.update(data)
            self._digests = {kind: hash.hexdigest() for kind, hash in hashes.items()}
        return self._digests


@dataclass
class CloudFile:
    """A file in Jamf's cloud."""

    content: Content
    ready_at: float = 0.0  #: monotonic seconds from which its digest is stated
    stated_length: int | None = None  #: another length than the true one
    corrupt: bool = False  #: what is served has a flipped bit


@dataclass
class Faults:
    """How unpleasant the server is; set by the control API."""

    token_life_s: float = 60.0
    refuse_tokens: int = 0  #: so many good tokens are answered with 401
    busy: int = 0  #: so many calls are answered with 503 and Retry-After
    busy_status: int = 503
    fail: int = 0  #: so many calls are answered with 500
    latency_s: float = 0.0
    login_page: bool = False  #: a web page is answered to everything
    jcds_gone: bool = False
    url_life_s: float = 3600.0
    expire_after: list[int] = field(
        default_factory=list
    )  #: the signed URL ends after so many bytes, each once
    drop_after: list[int] = field(
        default_factory=list
    )  #: the connection is cut after so many bytes, each once
    serve_rate: float = 0.0  #: bytes a second, 0 for as fast as it can
    pending_s: float = 0.0  #: how long an upload is PENDING
    header_auth: bool = True  #: whether webhooks keep authentication by header
    basic_auth: bool = True
    hooks: bool = True  #: whether webhooks are sent at all
    hooks_for_api: bool = True  #: RestAPIOperation for calls of the API, our own included
    hooks_for_gui: bool = True
    insert_while_paging: int = 0  #: so many records appear in front while a list is read
    refuse: dict[str, list[int]] = field(
        default_factory=dict
    )  #: by path: a status, and how many calls of exactly this path are answered with it
    stale_lists: int = (
        0  #: so many lists show packages as they were when this was set; look-ups by id are right
    )
    empty_lists: int = 0  #: so many lists and look-ups by name find no package, and count none
    empty_until: float = 0.0  #: or all until then, in seconds of the monotonic clock; see `Control.empty_for`
    missing_once: list[str] = field(
        default_factory=list
    )  #: file names that the next list lacks, and its count too
    count_more: int = 0  #: `totalCount` says so many more than there are
    page_most: int = 2000  #: larger pages are clamped to this, without a word
    duplicate: str = "DUPLICATE_FIELD"  #: how an existing name is refused: this code, another one, or "409"


class State:
    """The whole server."""

    def __init__(self, *, version: str = "11.30.1", cdn: str = "JAMF_CLOUD") -> None:
        self.version_text = version
        self.version = tuple(int(part) for part in version.split("-", maxsplit=1)[0].split("."))
        self.cdn = cdn
        self.client_id, self.client_secret = secrets.token_hex(8), secrets.token_urlsafe(24)
        self.username, self.password = "bridge", secrets.token_urlsafe(12)
        self.account = "ODS bridge"  #: under which API calls of the client are logged
        self.privileges = set(ALL_PRIVILEGES)
        if self.version < (11, 20):
            self.privileges = {name.replace("Cloud Distribution Service", "Content Distribution Server") for name in
                               self.privileges}  # fmt: skip
        self.faults = Faults()
        self.tokens: dict[str, float] = {}
        self.packages: dict[int, dict[str, Any]] = {}
        self.history: dict[int, list[dict[str, Any]]] = {}
        self.categories: dict[int, dict[str, Any]] = {1: {"id": "1", "name": "Apps", "priority": 9}}
        self.cloud: dict[str, CloudFile] = {}
        self.points: dict[int, dict[str, Any]] = {}
        self.hooks: dict[int, dict[str, Any]] = {}
        self.segments: dict[int, dict[str, Any]] = {}
        self.journal: deque[dict[str, Any]] = deque(maxlen=MAX_JOURNAL)
        self.deliveries: deque[dict[str, Any]] = deque(maxlen=MAX_JOURNAL)
        self.served: dict[str, int] = {}  #: bytes of cloud files that were sent, by name
        self.signatures: dict[str, tuple[str, float, int]] = {}  #: signature to file, expiry, bytes left
        self.next_id = 1
        self.refreshed_at = -1e9
        self.snapshot: list[dict[str, Any]] = []  #: what stale lists show
        self.stale_cloud: dict[str, CloudFile] = {}

    def new_id(self) -> int:
        """The next id of anything."""
        self.next_id += 1
        return self.next_id

    # Packages

    def shown(self, id: int) -> dict[str, Any]:
        """A package record as the API shows it now: the cloud's state and digests are worked out here."""
        record = {"id": str(id), **self.packages[id]}
        file = self.cloud.get(record["fileName"])
        if (
            record["cloudTransferStatus"] == "PENDING"
            and file is not None
            and time.monotonic() >= file.ready_at
        ):
            self.settle_cloud(id, file)
            record = {"id": str(id), **self.packages[id]}
        if self.version < (11, 25):
            record.pop("sha3512", None)
        return record

    def settle_cloud(self, id: int, file: CloudFile) -> None:
        """The cloud has looked at an upload: READY, with the digests that it worked out itself."""
        digests = file.content.digests()
        length = file.stated_length if file.stated_length is not None else file.content.size
        self.packages[id].update(
            cloudTransferStatus="READY", hashType="SHA3_512", hashValue=digests["sha3"], sha3512=digests["sha3"],
            md5=digests["md5"], size=str(length),
        )  # fmt: skip

    def freeze(self) -> None:
        """Keep what lists show from here on if they are stale."""
        self.snapshot = [self.shown(id) for id in list(self.packages)]
        self.stale_cloud = dict(self.cloud)

    def listed(self, *, whole: bool) -> list[dict[str, Any]]:
        """The records of a list: all of them (`whole`), or those that a filter looks through."""
        faults = self.faults
        if faults.empty_lists > 0 or time.monotonic() < faults.empty_until:
            faults.empty_lists = max(0, faults.empty_lists - 1)
            return []
        if whole and faults.stale_lists > 0:
            faults.stale_lists -= 1
            return [dict(record) for record in self.snapshot]
        items = [self.shown(id) for id in list(self.packages)]
        if whole and faults.missing_once:
            items = [item for item in items if item["fileName"] not in faults.missing_once]
            faults.missing_once = []
        return items

    def by_file(self, file_name: str) -> int | None:
        """The id of the record of a file name."""
        return next((id for id, record in self.packages.items() if record["fileName"] == file_name), None)

    def admin_upload(
        self, file_name: str, content: Content, *, pending_s: float | None = None, **changes: Any
    ) -> int:
        """An admin uploads a file in the GUI: a record, new or old, and a file in the cloud that is PENDING first."""
        wait = self.faults.pending_s if pending_s is None else pending_s
        id = self.by_file(file_name)
        if id is None:
            id = self.new_id()
            self.packages[id] = {**PACKAGE_DEFAULTS, "packageName": file_name, "fileName": file_name}
        file = CloudFile(content, ready_at=time.monotonic() + wait)
        for name, value in changes.items():
            setattr(file, name, value)
        self.cloud[file_name] = file
        # What was there before is shown until the cloud has looked: the old hash with a new state.
        self.packages[id].update(cloudTransferStatus="PENDING")
        if wait <= 0:
            self.settle_cloud(id, file)
        return id

    def note(self, id: int, text: str, username: str = "admin") -> None:
        """An entry in a record's history."""
        entries = self.history.setdefault(id, [])
        entries.insert(0, {"id": len(entries) + 1, "username": username, "note": text, "date": "2026-11-23T10:00:00Z",
                           "details": None})  # fmt: skip
