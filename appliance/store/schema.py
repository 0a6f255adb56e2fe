"""Every collection, and the fields that a query may use.

A document is a dictionary of BSON types with a string `_id`. Only declared fields can be filtered or sorted
on; both stores keep an index for each, and make what is missing when they open a database. A change of this
file needs a higher `VERSION`, and a migration (`store.migrations`) if the content of documents must change.
"""

from dataclasses import dataclass, field
from typing import Literal

VERSION = 2

FieldType = Literal["text", "int", "bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """One kind of document."""

    name: str
    #: what queries may use; a missing field counts as None
    fields: dict[str, FieldType] = field(default_factory=dict)
    #: fields of which no two documents share a value, None excepted
    unique: tuple[str, ...] = ()
    #: an int field: each insert or replace sets it to the collection's next number, without gaps
    sequence: str = ""
    #: an int field, UTC milliseconds: `purge` deletes the document from then on
    expires: str = ""
    #: further indexes over several fields; "-field" descends
    indexes: tuple[tuple[str, ...], ...] = ()


RECORDS = Collection(
    name="records",
    fields={
        "kind": "text",
        "record_id": "text",
        "author": "text",
        "deleted": "bool",
        "package": "text",
        "node": "text",
        "at": "int",
        "seq": "int",
        "fingerprint": "int",
    },
    sequence="seq",
    unique=("seq",),
)  #: the newest signed record of each kind and id; `seq` is the change feed's position
PACKAGES = Collection(
    name="packages",
    fields={
        "filename": "text",
        "stage": "text",
        "presence": "text",
        "withdrawn": "bool",
        "changed_at": "int",
        "held_sha256": "text",
    },
)  #: this node's view of each package
MANIFESTS = Collection(name="manifests")  #: by whole-file SHA-256
VERIFIED = Collection(
    name="verified", fields={"verified_at": "int"}
)  #: by SHA-256: the file of a blob as it was when its bytes were last verified here
DAMAGED = Collection(
    name="damaged", fields={"at": "int", "repaired_at": "int"}
)  #: by SHA-256: blobs that are damaged here, `repaired_at` is 0; by SHA-256 and time: repairs
SCRUB = Collection(name="scrub")  #: how far the scrub is, and which processes are busy
TRASH = Collection(
    name="superseded", fields={"package": "text", "sha256": "text", "at": "int"}
)  #: versions that are no longer served and can be restored; the name is from when only lost conflicts were kept
TRANSFERS = Collection(name="transfers", fields={"package": "text", "state": "text", "updated_at": "int"})
JOBS = Collection(
    name="jobs",
    fields={
        "queue": "text",
        "name": "text",
        "state": "text",
        "active_key": "text",
        "priority": "int",
        "run_at": "int",
        "lease_until": "int",
        "updated_at": "int",
    },
    unique=("active_key",),
    indexes=(("queue", "state", "-priority", "run_at", "_id"),),
)  #: written through enqueue, claim and settle only; `active_key` is the key while TODO or DOING, else None
EVENTS = Collection(
    name="events",
    fields={"seq": "int", "type": "text", "at": "int", "actor": "text", "subject": "text"},
    sequence="seq",
    unique=("seq",),
)
PEERS = Collection(name="peers", fields={"state": "text"})  #: registrations, by node id
CURSORS = Collection(name="cursors")  #: by peer id: how far that peer's change feed was read
INVITES = Collection(name="invites", fields={"expires_at": "int"}, expires="expires_at")
NONCES = Collection(name="nonces", fields={"expires_at": "int"}, expires="expires_at")
UPLOADS = Collection(name="uploads", fields={"filename": "text", "expires_at": "int"})
ACCOUNTS = Collection(name="accounts", fields={"role": "text"})  #: by account name
SESSIONS = Collection(
    name="sessions", fields={"account": "text", "seen_at": "int", "expires_at": "int"}, expires="expires_at"
)  #: of people in a browser, by the SHA-256 of the token
TOKENS = Collection(name="tokens", fields={"account": "text", "expires_at": "int"})
MDM_SERVERS = Collection(name="mdm_servers")  #: configured MDM servers and how they are doing, by server id
MDM_REMOTE = Collection(
    name="mdm_remote", fields={"server": "text", "file_name": "text", "state": "text"}
)  #: by "server:remote id": a package record of an MDM as it was last listed, and what was taken in of it
MDM_LINKS = Collection(
    name="mdm_links", fields={"server": "text", "package": "text", "state": "text"}
)  #: by "server:package id": what was mirrored to an MDM of a package
MDM_VERSIONS = Collection(
    name="mdm_versions", fields={"server": "text", "package": "text"}
)  #: by "server:package id": the versions of a package, to know their bytes again in an MDM
MDM_POINTS = Collection(
    name="mdm_points", fields={"server": "text", "state": "text"}
)  #: by "server:node id": a node's distribution point record in an MDM
DESTINATIONS = Collection(name="destinations", fields={"name": "text", "state": "text"}, unique=("name",))
DELIVERIES = Collection(
    name="deliveries",
    fields={
        "destination": "text",
        "state": "text",
        "type": "text",
        "due_at": "int",
        "seq": "int",
        "updated_at": "int",
    },
    indexes=(("destination", "state", "due_at", "_id"),),
)  #: by "event id.destination id": what is owed to a destination, and how it went
FOLLOWERS = Collection(name="followers")  #: by who reads: how far a log of this node was read
NOTICES = Collection(name="notices")  #: by subject: what was told already, so that it is told once

NODE = Collection(
    name="node"
)  #: what is about this node and its database: "identity" says whose database it is

COLLECTIONS: dict[str, Collection] = {
    collection.name: collection
    for collection in (
        RECORDS, PACKAGES, MANIFESTS, VERIFIED, DAMAGED, SCRUB, TRASH, TRANSFERS, JOBS, EVENTS,
        PEERS, CURSORS, INVITES, NONCES, UPLOADS, ACCOUNTS, SESSIONS, TOKENS,
        MDM_SERVERS, MDM_REMOTE, MDM_LINKS, MDM_VERSIONS, MDM_POINTS,
        DESTINATIONS, DELIVERIES, FOLLOWERS, NOTICES, NODE,
    )
}  # fmt: skip
