"""What is to be done about one package at one MDM server. Pure functions over the package, its link and the listing.

Most packages are up to date at most runs: that answer comes first and costs a few comparisons.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum

from appliance.domain.moment import too_early
from appliance.domain.package import Package, Presence
from appliance.store.ports import Doc

from ..digests import agree, known_hashes
from ..driver import CloudState, RemotePackage
from .links import LinkState, UploadState

LONGEST_WAIT_MS = 6 * 3_600_000  #: after refusals of the MDM
IN_CLOUD = {CloudState.READY, CloudState.PENDING}


class Step(Enum):
    """What to do."""

    NOTHING = "nothing"
    WAIT = "wait"  #: show that it waits, and why
    HASH = "hash"  #: have the further digests computed, and wait
    SETTLED = "settled"  #: the MDM's cloud holds these bytes: nothing to be asked
    COMPARE_AGE = "compare_age"  #: the MDM's cloud holds other bytes: whose are newer?
    ENSURE = "ensure"  #: create the record or bring it up to date
    BACK_OFF = "back_off"  #: it was refused lately


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do about a package, and why."""

    step: Step
    reason: str = ""  #: a sentence for the admin, if it waits


class Likeness(Enum):
    """How bytes in an MDM compare with those of a package."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"  #: no digest of one kind is known of both


def likeness(package: Package, remote: RemotePackage) -> Likeness:
    """Whether a record states the bytes of a package, by any digest that both name."""
    same = agree(known_hashes(package), remote.hashes)
    if same is False:
        return Likeness.DIFFERENT
    if remote.state is CloudState.READY and remote.size not in {None, package.body.size}:
        return Likeness.DIFFERENT
    return Likeness.SAME if same else Likeness.UNKNOWN


def plan(
    package: Package,
    link: Doc | None,
    remote: RemotePackage | None,
    *,
    templates: str,
    digested: bool,
    now: int,
    verify: bool,
) -> Plan:
    """Decide about a package that is to be mirrored.

    Args:
        package: The package; it is not withdrawn, and of a stage that is mirrored.
        link: What was mirrored of it before.
        remote: The record of its file name, None if the listing has none.
        templates: A mark of the templates.
        digested: Whether its further digests are known.
        now: UTC milliseconds.
        verify: Whether to ask the MDM even if nothing seems to have changed.
    """
    if remote is not None and remote.state in IN_CLOUD:
        return _with_cloud(package, link, remote, digested=digested)
    if link is not None and not verify:
        if _up_to_date(package, link, remote, templates):
            return Plan(step=Step.NOTHING)
        if backing_off(package, link, templates, now):
            return Plan(step=Step.BACK_OFF)
    if package.presence is Presence.ARRIVING:
        return Plan(step=Step.WAIT, reason="Its bytes are arriving at this node.")
    if not digested:
        if package.held_sha256 == package.body.sha256:
            return Plan(step=Step.HASH, reason="Its hashes are being computed.")
        if package.presence is not Presence.NOT_ADMITTED:
            return Plan(step=Step.WAIT, reason=f"Its bytes are not at this node yet: {package.reason}.")
    return Plan(step=Step.ENSURE)


def _with_cloud(package: Package, link: Doc | None, remote: RemotePackage, *, digested: bool) -> Plan:
    """The MDM's storage has, or soon has, bytes of this name: its record is never given hashes."""
    match likeness(package, remote):
        case Likeness.SAME:
            settled = link is not None and _settled(package, link, remote)
            return Plan(step=Step.NOTHING if settled else Step.SETTLED)
        case Likeness.DIFFERENT if remote.state is CloudState.READY:
            return Plan(step=Step.COMPARE_AGE)
        case Likeness.UNKNOWN if not digested and package.held_sha256 == package.body.sha256:
            return Plan(step=Step.HASH, reason="Its hashes are being computed, to compare with the MDM's.")
        case Likeness.UNKNOWN if remote.state is CloudState.READY:
            return Plan(step=Step.WAIT, reason="The MDM states no hash that is known here.")
    return Plan(step=Step.WAIT, reason="The MDM still works on an upload of this name.")


def _settled(package: Package, link: Doc, remote: RemotePackage) -> bool:
    """Whether a link to a record with bytes in the MDM's storage says all that there is to say."""
    upload = link["upload"]
    return (
        link["state"] == LinkState.MIRRORED
        and link["remote_id"] == remote.id
        and link["sha256"] == package.body.sha256
        and (upload is None or upload["state"] != UploadState.PENDING)
    )


def _up_to_date(package: Package, link: Doc, remote: RemotePackage | None, templates: str) -> bool:
    """Whether a record says what it should, as far as link and listing tell."""
    return (
        remote is not None
        and link["state"] == LinkState.MIRRORED
        and link["remote_id"] == remote.id
        and link["sha256"] == package.body.sha256
        and link["revision"] == package.revision
        and link["written_at"] == package.at
        and link["templates"] == templates
        and (
            likeness(package, remote) is not Likeness.DIFFERENT
            or link["difference"] == difference(package, remote)  # we wrote, and the MDM kept it
        )
    )


def backing_off(package: Package, link: Doc, templates: str, now: int) -> bool:
    """Whether the MDM refused this revision of the package a short while ago."""
    return (
        link["state"] in {LinkState.FAILED, LinkState.CONFLICT}
        and link["tried"] == tried(package, templates)
        and too_early(link["retry_at"], now, LONGEST_WAIT_MS)
    )


def created_by_us(package: Package, link: Doc | None, remote: RemotePackage) -> bool:
    """Whether a record is the one that an interrupted run created.

    It is ours if no record of this name was listed when its creation was begun, its bytes are nowhere in the MDM, and
    it carries the hashes that we would have written: nobody writes those by hand.
    """
    return bool(
        link is not None
        and link["absent"]
        and remote.state is CloudState.NONE
        and likeness(package, remote) is Likeness.SAME
    )


def ownership(package: Package, link: Doc | None, remote: RemotePackage) -> bool:
    """Whether a listed record is ours."""
    if link is not None and link["remote_id"] == remote.id:
        return bool(link["ours"])
    return created_by_us(package, link, remote)


def tried(package: Package, templates: str) -> str:
    """A word that changes with package and templates: what was refused once may go when one of them has changed."""
    return f"{package.body.sha256[:16]}:{package.revision}:{package.at}:{templates}"


def difference(package: Package, remote: RemotePackage) -> str:
    """A word for one distinct difference between a package and what a record states of its bytes."""
    stated = hashlib.sha256(repr((str(remote.state), remote.size, sorted(remote.hashes.items()))).encode())
    return f"{package.body.sha256[:16]}:{stated.hexdigest()[:16]}"
