"""What the answers of the admin API look like, as JSON Schema. `views` and the handlers make them; tests compare."""

from collections.abc import Mapping
from typing import Any

from appliance.domain.package import Effect
from appliance.domain.trash import Why

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
INT: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """The schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def object_of(properties: Mapping[str, Schema]) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _maybe(name: str) -> Schema:
    return {"anyOf": [ref(name), {"type": "null"}]}


_WORDS = array(TEXT)
_COUNTED = (
    "packages", "held", "peers", "transfers_failed", "jobs_waiting", "jobs_running", "jobs_failed", "versions",
)  # fmt: skip
_COUNTS = object_of({name: {"type": ["integer", "null"]} for name in _COUNTED})

_DIGESTS: Schema = {
    "type": "object",
    "additionalProperties": TEXT,
    "description": "Further digests in hex by kind: md5, sha512, sha3_512. Computed when something asks for them.",
}

_PACKAGE: dict[str, Schema] = {
    "id": TEXT, "filename": TEXT, "size": INT, "sha1": TEXT, "sha256": TEXT, "hashes": _DIGESTS,
    "stage": TEXT, "tags": _WORDS, "notes": TEXT, "metadata": ANY, "revision": INT, "author": TEXT,
    "changed_at": TIME, "uploaded_at": TIME, "uploaded_by": TEXT, "origin": TEXT, "withdrawn": YES, "presence": TEXT,
    "reason": TEXT, "wanted_since": TIME, "retry_at": TIME, "url": TEXT,
}  # fmt: skip
_UPLOAD: dict[str, Schema] = {
    "id": TEXT, "filename": TEXT, "size": {"type": ["integer", "null"]}, "offset": INT, "stage": TEXT,
    "tags": _WORDS, "partial": YES, "actor": TEXT, "created_at": TIME, "expires_at": TIME, "url": TEXT,
}  # fmt: skip
_TOKEN: dict[str, Schema] = {
    "id": TEXT, "name": TEXT, "account": TEXT, "role": TEXT, "stages": array(TEXT), "scopes": array(TEXT),
    "created_at": TIME, "expires_at": TIME, "last_used": TIME, "last_used_from": TEXT,
}  # fmt: skip
_DESTINATION: dict[str, Schema] = {
    "id": TEXT, "name": TEXT, "kind": TEXT, "events": _WORDS, "state": TEXT, "enabled": YES, "format": TEXT,
    "url": TEXT, "template": TEXT, "content_type": TEXT, "allow_private": YES, "old_secret_until": TIME,
    "address": TEXT, "mode": TEXT, "hour": INT, "zone": TEXT, "waiting": INT, "failures": INT, "failing_since": TIME,
    "last_error": TEXT, "last_success": TIME, "not_before": TIME, "version": INT, "created_at": TIME,
    "changed_at": TIME,
}  # fmt: skip

_PROPERTIES: dict[str, dict[str, Schema]] = {
    "Package": _PACKAGE,
    "ListedPackage": {
        **_PACKAGE, "notice": {**TEXT, "description": "What to do, if it lies here and no node admits it."},
    },
    "UploadedPackage": {
        **_PACKAGE, "notice": TEXT, "effect": {"type": "string", "enum": list(Effect)}, "message": TEXT,
    },
    "PackageDetail": {
        **_PACKAGE,
        "admitted_by": _WORDS, "cut_off": _WORDS, "notice": TEXT, "unheard": array(ref("UnheardNode")),
        "replicas": array(ref("Replica")),
        "manifest": object_of({"chunk_size": INT, "count": INT, "digest": TEXT, "url": TEXT}),
        "superseded": array(object_of({"sha256": TEXT, "filename": TEXT, "at": TIME})),
    },
    "Replica": {
        "node": TEXT, "name": TEXT, "presence": TEXT, "reason": TEXT, "sha256": TEXT, "current": YES, "at": TIME,
        "bytes_done": {"type": ["integer", "null"]},
    },
    "UnheardNode": {
        "node": TEXT, "name": TEXT, "reason": {**TEXT, "description": "Why nothing is known of its replica."},
        "since": {**TIME, "description": "Since when that is so, if it is known."},
    },
    "PackageVersion": {
        "sha256": TEXT, "filename": TEXT, "size": {"type": ["integer", "null"]}, "revision": INT, "author": TEXT,
        "stage": TEXT, "tags": _WORDS, "notes": TEXT, "uploaded_at": TIME, "uploaded_by": TEXT,
        "current": {**YES, "description": "Whether the network has this version now."},
        "here": {**YES, "description": "Whether its file is on this node."},
        "why": {
            "type": "string", "enum": ["", *Why],
            "description": "Why it is no longer current: replaced, withdrawn, or superseded by a file whose author "
            "never saw it.",
        },
        "at": {**TIME, "description": "Since when it is not current."},
        "expires_at": {**TIME, "description": "Until when it can be restored; earlier if the disk needs room."},
    },
    "Restoration": {"job": ref("Job"), "version": ref("PackageVersion")},
    "Manifest": {"size": INT, "sha1": TEXT, "sha256": TEXT, "chunk_size": INT, "chunks": _WORDS},
    "Verification": {"job": ref("Job")},
    "Upload": _UPLOAD,
    "UploadDetail": {**_UPLOAD, "package": {"type": ["string", "null"]}},
    "Peer": {
        "id": TEXT, "name": TEXT, "url": TEXT, "state": TEXT, "stage": TEXT, "version": TEXT, "healthy": YES,
        "health": TEXT, "failing_since": TIME,
        "joined_at": TIME, "last_seen": TIME, "last_error": TEXT, "failures": INT, "retry_at": TIME, "strikes": INT,
        "last_strike": TEXT, "quarantined_until": TIME, "set_aside": array(ref("SetAside")),
        "clock_offset_s": NUMBER, "notice": TEXT,
    },
    "SetAside": {"package": TEXT, "filename": TEXT, "until": TIME, "reason": TEXT},
    "Invite": {
        "id": TEXT, "expires_at": TIME, "created_at": TIME, "created_by": TEXT, "used_by": TEXT, "bad_macs": INT,
    },
    "NewInvite": {"id": TEXT, "invite": TEXT, "expires_at": TIME},
    "Node": {
        "id": TEXT, "name": TEXT, "url": TEXT, "stage": TEXT, "version": TEXT, "tags_take": _WORDS,
        "tags_refuse": _WORDS, "self": YES, "registered": YES, "health": TEXT, "failing_since": TIME,
    },
    "Transfer": {
        "id": TEXT, "package": TEXT, "filename": TEXT, "sha256": TEXT, "size": INT, "state": TEXT, "bytes_done": INT,
        "chunks_done": INT, "chunks": INT, "rate": NUMBER, "sources": array(ref("Source")), "error": TEXT,
        "attempts": INT, "retry_at": TIME, "started_at": TIME, "updated_at": TIME,
    },
    "Source": {"node": TEXT, "name": TEXT, "bytes": INT, "chunks": INT, "strikes": INT},
    "Job": {
        "id": TEXT, "queue": TEXT, "name": TEXT, "args": ANY, "state": TEXT, "priority": INT, "attempts": INT,
        "worker": TEXT, "error": TEXT, "run_at": TIME, "created_at": TIME, "updated_at": TIME,
    },
    "Event": {"seq": INT, "type": TEXT, "at": TIME, "actor": TEXT, "subject": TEXT, "data": ANY},
    "User": {
        "name": TEXT, "role": TEXT, "stages": array(TEXT), "source": TEXT, "blocked": YES, "must_change": YES,
        "created_at": TIME, "changed_at": TIME, "revision": INT,
    },
    "Directory": {
        "configured": YES, "servers": array(ref("DirectoryServer")), "groups": array(ref("DirectoryGroup")),
        "ca_file": TEXT, "bind_dn": TEXT, "base_dn": TEXT, "user_filter": TEXT, "name_attribute": TEXT,
        "group_base_dn": TEXT, "group_filter": TEXT, "group_depth": INT, "connect_timeout_s": INT,
        "receive_timeout_s": INT, "recheck_s": NUMBER,
    },
    "DirectoryServer": {
        "url": TEXT, "healthy": {"type": ["boolean", "null"]}, "error": TEXT, "asked_at": TIME,
    },
    "DirectoryGroup": {"group": TEXT, "role": TEXT, "stages": array(TEXT)},
    "DirectoryTestResult": {"ok": YES, "steps": array(ref("DirectoryStep"))},
    "DirectoryStep": {"server": TEXT, "name": TEXT, "ok": YES, "detail": TEXT},
    "Session": {
        "id": TEXT, "account": TEXT, "created_at": TIME, "last_used": TIME, "address": TEXT, "agent": TEXT,
        "current": YES,
    },
    "Ended": {"ended": INT},
    "Token": _TOKEN,
    "NewToken": {"token": TEXT, **_TOKEN},
    "Destination": _DESTINATION,
    "NewDestination": {"secret": TEXT, **_DESTINATION},
    "TestResult": {"ok": YES, "status": INT, "latency_ms": INT, "answer": TEXT, "error": TEXT},
    "Delivery": {
        "id": TEXT, "destination": TEXT, "event": INT, "type": TEXT, "subject": TEXT, "state": TEXT,
        "attempts": INT, "due_at": TIME, "status": INT, "latency_ms": INT, "answer": TEXT, "error": TEXT,
        "created_at": TIME, "updated_at": TIME, "delivered_at": TIME,
    },
    "About": {
        "name": TEXT, "node_id": TEXT, "url": TEXT, "download_url": TEXT, "version": TEXT, "stage": TEXT,
        "stages": _WORDS, "tags_take": _WORDS, "tags_refuse": _WORDS, "account": TEXT, "role": TEXT,
    },
    "System": {
        "version": TEXT, "uptime_s": NUMBER,
        "disk": object_of({"total": INT, "free": INT, "floor": INT, "used_by_packages": INT,
                           "trash": {**INT, "description": "Bytes of earlier versions that can be restored."},
                           "uploads": {**INT, "description": "Bytes of uploads that are not complete."}}),
        "memory": object_of({"rss": {"type": ["integer", "null"]}}),
        "python": TEXT, "database": TEXT, "counts": _COUNTS,
    },
    "Scrub": {
        "state": TEXT, "reason": TEXT, "days": NUMBER, "rate": INT, "files": INT, "bytes": INT, "due_files": INT,
        "due_bytes": INT, "oldest_at": TIME, "requested_at": TIME, "current": _maybe("ScrubPass"),
        "last": _maybe("ScrubPass"), "total_files": INT, "total_bytes": INT, "total_damaged": INT, "damaged": INT,
        "repaired": INT,
    },
    "ScrubPass": {"began_at": TIME, "ended_at": TIME, "files": INT, "bytes": INT, "damaged": INT},
    "MdmKind": {"kind": TEXT, "title": TEXT, "settings": ANY, "config": ANY},
    "MdmServer": {
        "id": TEXT, "name": TEXT, "kind": TEXT, "enabled": YES, "state": TEXT, "reason": TEXT, "revision": INT,
        "settings": ANY, "intake": ANY, "mirror": ANY, "points": ANY, "webhooks": ANY, "hook_path": TEXT,
        "hook_secret": TEXT, "health": ANY,
    },
    "MdmReport": {"ok": YES, "lines": array(ref("MdmLine"))},
    "MdmLine": {
        "what": TEXT, "ok": YES, "detail": TEXT, "privilege": TEXT, "needed_for": TEXT, "needed": YES,
    },
    "MdmSyncing": {"job": ref("Job")},
    "MdmRemoved": {"removed": INT},
    "MdmPackage": {
        "direction": TEXT, "state": TEXT, "file_name": TEXT, "package": TEXT, "remote": TEXT, "ours": YES,
        "error": TEXT, "at": TIME,
    },
    "MdmPackageRecord": {
        "server": TEXT, "server_name": TEXT, "direction": TEXT, "state": TEXT, "file_name": TEXT, "package": TEXT,
        "remote": TEXT, "ours": YES, "error": TEXT, "at": TIME,
    },
    "MdmPoint": {
        "node": TEXT, "name": TEXT, "remote": TEXT, "ours": YES, "state": TEXT, "error": TEXT, "at": TIME,
    },
    "MdmSegment": {"name": TEXT, "start": TEXT, "end": TEXT, "distribution_point": TEXT, "suggestion": TEXT},
    "Setting": {
        "key": TEXT, "value": {}, "default": YES, "description": TEXT, "environment": TEXT,
    },
    "Throughput": {"step_s": INT, "steps": array(object_of({"at": TIME, "received": INT, "sent": INT}))},
    "Problem": {"type": TEXT, "title": TEXT, "status": INT, "code": TEXT, "detail": TEXT, "request_id": TEXT},
}  # fmt: skip

SCHEMAS: dict[str, Schema] = {name: object_of(properties) for name, properties in _PROPERTIES.items()}
