"""What happened here: the audit log's vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    """Every kind of event."""

    PACKAGE_PUBLISHED = "package.published"
    PACKAGE_REPLACED = "package.replaced"
    PACKAGE_CHANGED = "package.changed"  #: stage, tags or notes
    PACKAGE_WITHDRAWN = "package.withdrawn"
    PACKAGE_RESTORED = "package.restored"  #: an earlier version was published again, by a person at this node
    PACKAGE_SUPERSEDED = "package.superseded"  #: another file of this name won; ours is kept
    PACKAGE_REINSTATED = "package.reinstated"  #: an edit elsewhere had undone a replacement; both stand now
    PACKAGE_ARRIVED = "package.arrived"  #: a replica was completed here
    PACKAGE_RELEASED = "package.released"  #: the bytes left this node
    PACKAGE_DAMAGED = "package.damaged"
    PACKAGE_REPAIRED = "package.repaired"  #: its file was damaged here, and is whole again
    PACKAGE_REPLICATED = (
        "package.replicated"  #: every node that admits it holds it; told where it was uploaded
    )
    REPLICATION_STUCK = "replication.stuck"  #: packages are wanted here and nothing of them moves
    REPLICATION_RECOVERED = "replication.recovered"  #: none is stuck any more
    TRANSFER_FAILED = "transfer.failed"
    TRANSFER_STALLED = "transfer.stalled"
    TRANSFER_RETRIED = "transfer.retried"  #: by a person
    TRANSFER_CANCELLED = "transfer.cancelled"
    TRANSFER_PRIORITIZED = "transfer.prioritized"
    JOB_RETRIED = "job.retried"
    JOB_CANCELLED = "job.cancelled"
    JOB_PRIORITIZED = "job.prioritized"
    UPLOAD_ENDED = "upload.ended"  #: given up before it was complete
    PEER_INVITED = "peer.invited"
    PEER_INVITE_REVOKED = "peer.invite_revoked"
    PEER_JOINED = "peer.joined"
    PEER_LEFT = "peer.left"
    PEER_DOWN = "peer.down"
    PEER_UP = "peer.up"
    PEER_STRUCK = "peer.struck"  #: it served wrong bytes, forged records or broke the protocol
    PEER_CLOCK = "peer.clock"  #: its clock and ours differ
    NODE_REMOVED = "node.removed"  #: an administrator said that a node is gone for good
    NODE_ROLLED_BACK = (
        "node.rolled_back"  #: a peer gave this node's own records back, which its database lacked
    )
    NODE_TWIN_DETECTED = "node.twin_detected"  #: a copy of this node is running; this one writes nothing
    NODE_STARTED = "node.started"
    NODE_STOPPED = "node.stopped"
    TASK_FAILED = "task.failed"  #: a background task failed in a new way; it is retried
    SCRUB_DAMAGE = "scrub.damage"  #: every file that was due was read, and some were damaged
    DISK_LOW = "disk.low"
    DISK_RECOVERED = "disk.recovered"
    CERTIFICATE_EXPIRING = "certificate.expiring"  #: this node's own TLS certificate
    CERTIFICATE_REFUSED = "certificate.refused"  #: a new one could not be used; the one before is kept
    ACCOUNT_CHANGED = "account.changed"
    TOKEN_CREATED = "token.created"
    TOKEN_REVOKED = "token.revoked"
    SESSION_STARTED = "session.started"
    SESSION_ENDED = "session.ended"  #: signed out, here or everywhere
    SIGN_IN_REFUSED = "sign_in.refused"
    SIGN_IN_LOCKED = "sign_in.locked"  #: so many failed that an account has to wait
    DESTINATION_ADDED = "destination.added"
    DESTINATION_CHANGED = "destination.changed"
    DESTINATION_REMOVED = "destination.removed"
    DESTINATION_SUSPENDED = "destination.suspended"  #: it failed for too long; what is owed to it waits
    DESTINATION_RESUMED = "destination.resumed"
    MDM_ADDED = "mdm.added"
    MDM_CHANGED = "mdm.changed"
    MDM_REMOVED = "mdm.removed"
    MDM_ATTENTION = "mdm.attention"  #: a person has to mend something before it goes on
    MDM_RECOVERED = "mdm.recovered"
    MDM_PULLED = "mdm.pulled"  #: a package that was uploaded in an MDM was taken in
    MDM_QUARANTINED = (
        "mdm.quarantined"  #: what an MDM gave is not what its record states; nothing was published
    )
    MDM_RECORD_WRITTEN = "mdm.record_written"  #: a package record was created or brought up to date
    MDM_RECORD_CONFLICT = "mdm.record_conflict"  #: the MDM's bytes or fields differ and were left
    MDM_POINT_WRITTEN = "mdm.point_written"
    MDM_HOOK_REFUSED = "mdm.hook_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    seq: int  #: position in this node's log, without gaps
    type: str  #: an `EventType`
    at: int  #: UTC milliseconds
    actor: str  #: account, "node:<id>" or "system"
    subject: str  #: package id, node id, account, ...
    data: Mapping[str, Any] = field(default_factory=dict)
