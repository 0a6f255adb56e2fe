"""What a Jamf Pro server is and can do, found out once and believed for an hour."""

import time
from dataclasses import dataclass, field

from ..jamf import JamfAuthorizationError, JamfError, JamfNotFound, Server
from .points import DistributionPoints
from .records import PackageRecords

FRESH_S = 3600.0
_JAMF_CLOUD = "JAMF_CLOUD"
_GONE = (
    "Packages cannot be downloaded from Jamf's cloud any more ({reason}). What is uploaded there does not come to the "
    "nodes: upload to a node instead; everything else goes on."
)


@dataclass(slots=True, kw_only=True)
class Known:
    """A server as it was found."""

    version: tuple[int, ...]
    account: str
    cdn: str  #: NONE, JAMF_CLOUD, AMAZON_S3, ...
    cloud_files: bool  #: whether the files of its cloud can be listed and fetched
    records: PackageRecords
    points: DistributionPoints
    notes: list[str] = field(default_factory=list)
    found_at: float = field(default_factory=time.monotonic)

    @property
    def old(self) -> bool:
        """Whether it should be found out again."""
        return time.monotonic() - self.found_at > FRESH_S

    @classmethod
    async def find_out(cls, server: Server) -> "Known":
        """Ask the server.

        Raises:
            JamfError: It does not answer, or does not let us in.
        """
        version = tuple(await server.version())
        account = (await server.authorization()).username
        notes = []
        try:
            cdn = str((await server.cloud_distribution_point()).get("cdnType") or "NONE")
        except (JamfNotFound, JamfAuthorizationError) as exc:
            cdn = "NONE"
            notes.append(f"The cloud distribution point cannot be read: {exc}")
        if cdn not in {"NONE", _JAMF_CLOUD}:
            notes.append(
                f"Files of a cloud distribution point of the kind {cdn} cannot be fetched; upload to a node."
            )
        return cls(
            version=version,
            account=account,
            cdn=cdn,
            cloud_files=cdn == _JAMF_CLOUD,
            records=PackageRecords(server, version),
            points=DistributionPoints(server, version, cloud=cdn != "NONE"),
            notes=notes,
        )

    def lose_cloud_files(self, reason: JamfError) -> None:
        """The calls that fetch from the cloud are gone, or not allowed."""
        self.cloud_files = False
        self.notes.append(_GONE.format(reason=reason))
