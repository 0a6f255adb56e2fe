"""What a Jamf Pro server is and can do, found out once and believed for an hour.

A refusal is not believed that long: it may have been a proxy, a restart or a privilege that is being set. What could
not be read is asked for again after half a minute, and the list of cloud files at every listing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..jamf import CloudFile, JamfAuthorizationError, JamfError, JamfNotFound, Server
from ..names import nfc
from .points import DistributionPoints
from .records import PackageRecords

FRESH_S = 3600.0
ASK_AGAIN_S = 30.0  #: what was refused is asked for again after this
JAMF_CLOUD = "JAMF_CLOUD"
UNKNOWN = ""
_GONE = (
    "Packages cannot be downloaded from Jamf's cloud now ({reason}). ODS asks again by itself. What is uploaded there "
    "does not reach the nodes until then: upload it to a node instead; everything else works."
)


@dataclass(slots=True, kw_only=True)
class Known:
    """A server as it was found."""

    version: tuple[int, ...]
    account: str
    cdn: str  #: NONE, JAMF_CLOUD, AMAZON_S3, ...; `UNKNOWN` if it could not be read
    records: PackageRecords
    points: DistributionPoints
    notes: tuple[str, ...] = ()
    cloud_files: bool = True  #: whether the files of its cloud could be listed at the last listing
    files: Mapping[str, CloudFile] = field(default_factory=dict)  #: as they were listed last
    by_name: Mapping[str, CloudFile] = field(default_factory=dict)  #: the same by their names as ODS has them
    listed_at: float = float("-inf")  #: and when
    lost: JamfError | None = None  #: why they could not be
    refused: JamfError | None = None  #: why its cloud distribution point could not be read
    found_at: float = field(default_factory=time.monotonic)

    @property
    def old(self) -> bool:
        """Whether it should be found out again."""
        return time.monotonic() - self.found_at > (ASK_AGAIN_S if self.refused else FRESH_S)

    async def read_files(self, server: Server, *, fresh_s: float = 0.0) -> None:
        """List the files of the cloud; none if they cannot be listed. One refusal is no answer for the next time.

        Args:
            server: The server.
            fresh_s: A list that is younger than this is as good.

        Raises:
            JamfError: The server fails.
        """
        if self.cdn not in {JAMF_CLOUD, UNKNOWN}:
            return
        if time.monotonic() - self.listed_at < fresh_s:
            return
        try:
            files = await server.CloudFiles().refresh()
        except (JamfNotFound, JamfAuthorizationError) as exc:
            self.cloud_files, self.lost, self.files, self.listed_at = False, exc, {}, float("-inf")
        else:
            self.cloud_files, self.lost, self.files, self.listed_at = True, None, files, time.monotonic()
        self.by_name = {nfc(name): file for name, file in self.files.items()}

    def file(self, name: str) -> CloudFile | None:
        """The file of a record's file name, as it was listed last: the cloud may have the name in another form."""
        return self.files.get(name) or self.by_name.get(nfc(name))

    @classmethod
    async def find_out(cls, server: Server) -> "Known":
        """Ask the server.

        Raises:
            JamfError: It does not answer, or does not let us in.
        """
        version = tuple(await server.version())
        account = (await server.authorization()).username
        notes: tuple[str, ...] = ()
        refused: JamfError | None = None
        try:
            cdn = str((await server.cloud_distribution_point()).get("cdnType") or "NONE")
        except (JamfNotFound, JamfAuthorizationError) as exc:
            cdn, refused = UNKNOWN, exc
            notes = (f"The cloud distribution point cannot be read: {exc}",)
        if cdn not in {"NONE", JAMF_CLOUD, UNKNOWN}:
            notes = (
                f"Files of a cloud distribution point of the kind {cdn} cannot be fetched; upload to a node.",
            )
        return cls(
            version=version,
            account=account,
            cdn=cdn,
            cloud_files=cdn in {JAMF_CLOUD, UNKNOWN},
            records=PackageRecords(server, version),
            points=DistributionPoints(server, version, cloud=None if cdn == UNKNOWN else cdn != "NONE"),
            notes=notes,
            refused=refused,
        )

    @property
    def missing(self) -> str:
        """A sentence about an ability that was refused lately, "" if none was."""
        if self.lost is not None:
            return _GONE.format(reason=self.lost)
        return self.notes[0] if self.refused is not None else ""

    @property
    def privilege_missing(self) -> bool:
        """Whether it was refused for a missing privilege, which a person has to add."""
        return isinstance(self.lost if self.lost is not None else self.refused, JamfAuthorizationError)
