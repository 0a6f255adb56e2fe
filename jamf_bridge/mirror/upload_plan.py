"""Whether the bytes of a package are to be uploaded to an MDM's own storage. Pure functions over link and listing.

After an upload the MDM computes hashes by itself: for minutes its record may show the old ones, the new ones with the
old size, or the size 0 if the bytes never landed (Jamf Pro: terraform-provider-jamfplatform, jamf-cli). An upload is
done when the MDM states our hash and is ready.
"""

from enum import Enum

from appliance.domain.moment import too_early
from appliance.domain.package import Package
from appliance.store.ports import Doc

from ..driver import CloudState, RemotePackage
from .links import UploadState
from .plan import IN_CLOUD, Likeness, likeness

MAX_UPLOADS = 5  #: of the same bytes
BUDGET_MS = 30 * 60_000  #: for the MDM to state our hash
FIRST_WAIT_MS = 30_000  #: after a refusal, doubled by each: one may be a mistake of the MDM
_STALE_MS = 24 * 3_600_000  #: a job that is queued for so long was lost


class UploadStep(Enum):
    """What to do about an upload."""

    NOTHING = "nothing"
    QUEUE = "queue"  #: upload, for the first time or again
    GIVE_UP = "give_up"


def upload_step(
    package: Package, link: Doc, remote: RemotePackage | None, *, ahead: bool, now: int
) -> UploadStep:
    """Decide about a package whose bytes are held here and which is to be uploaded.

    Args:
        package: The package.
        link: Its link.
        remote: Its record as it was listed.
        ahead: Whether the bytes that the MDM has were ours, or are older.
        now: UTC milliseconds.
    """
    if remote is None:
        return UploadStep.NOTHING  # there is no record yet to upload to
    if remote.state is CloudState.READY and not ahead and not lost(remote):
        return UploadStep.NOTHING  # bytes that nobody here knows, or those of the package
    same = remote.state in IN_CLOUD and likeness(package, remote) is Likeness.SAME
    upload = link["upload"]
    if upload is None or upload["sha256"] != package.body.sha256:
        return UploadStep.NOTHING if same else UploadStep.QUEUE
    match upload["state"]:
        case UploadState.QUEUED:
            return UploadStep.NOTHING if _within(upload, _STALE_MS + 1, now) else UploadStep.QUEUE
        case UploadState.PENDING:
            if same or (not lost(remote) and _within(upload, BUDGET_MS, now)):
                return UploadStep.NOTHING
            return UploadStep.QUEUE if upload["attempts"] < MAX_UPLOADS else UploadStep.GIVE_UP
        case UploadState.FAILED if not same and upload["attempts"] < MAX_UPLOADS:
            wait = FIRST_WAIT_MS * 2 ** upload["attempts"]
            return UploadStep.NOTHING if _within(upload, wait, now) else UploadStep.QUEUE
    return UploadStep.NOTHING


def _within(upload: Doc, wait_ms: int, now: int) -> bool:
    """Whether less than a time has passed since an upload was noted."""
    return too_early(upload["at"] + wait_ms, now, wait_ms)


def lost(remote: RemotePackage) -> bool:
    """Whether an upload never landed: there are no bytes that another one would replace."""
    return remote.state is CloudState.ERROR or remote.size == 0


def not_given_up(link: Doc) -> Doc:
    """A link whose upload, if it was given up, is begun anew."""
    upload = link["upload"]
    if not upload or upload["state"] != UploadState.FAILED:
        return link
    return {**link, "upload": {**upload, "sha256": "", "error": ""}}  # what it knows of an earlier one stays


def under_way(package: Package, link: Doc | None) -> bool:
    """Whether these bytes are being uploaded, or the MDM works on them."""
    upload = link["upload"] if link else None
    return bool(
        upload
        and upload["sha256"] == package.body.sha256
        and upload["state"] in {UploadState.QUEUED, UploadState.PENDING}
    )


def new_upload(package: Package, link: Doc, remote: RemotePackage | None, *, now: int) -> dict[str, object]:
    """The state of an upload that is queued now; `remote` is the record whose bytes it replaces."""
    old = link["upload"]
    again = old is not None and old["sha256"] == package.body.sha256
    return {
        "sha256": package.body.sha256,
        "state": str(UploadState.QUEUED),
        "attempts": old["attempts"] if again else 0,  # counted when it is sent
        "at": now,
        "mark": old["mark"] if old else "",
        "over": remote.mark if remote is not None else "",
        "error": "",
    }
