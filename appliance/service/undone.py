"""Notices a record whose author did not know of a replacement that it outranks, and puts the replacement above it.

An edit writes the whole record, with the bytes that its author knew. If another node replaced these meanwhile, the
edit outranks the replacement and would undo it. The replacement lists the bytes that it replaced, and so shows that. It
is kept beside the record that won, in the same write, until its node has written both together anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from appliance.domain.package import LISTED, PackageBody
from appliance.domain.record import Record, RecordKind
from appliance.peering.records import package_body

from .installer_facts import replace_installer

_DESCRIBED = ("stage", "tags", "notes", "metadata")  #: what an edit changes


def undoes(record: Record, lost: Record) -> bool:
    """Whether a record that outranks `lost` brings back bytes that had been replaced, without knowing of that.

    Each upload of a package is later than the one that it replaces, by `PackageBody.uploaded_at`. So bytes that were
    put back on purpose are a later upload, and an edit of what was there before is of an earlier one.
    """
    if record.kind is not RecordKind.PACKAGE or lost.kind is not RecordKind.PACKAGE or lost.deleted:
        return False
    body, old = package_body(record), package_body(lost)
    return body.sha256 in old.replaces and body.uploaded_at < old.uploaded_at <= record.revision


def described(record: Record) -> dict[str, Any]:
    """What a package record says that an edit changes."""
    return {name: record.body[name] for name in _DESCRIBED if name in record.body}


def falls_to(record: Record, lost: Record, holders: Iterable[str], node_id: str) -> bool:
    """Whether it falls to this node to put a replacement above the record that undoes it.

    It falls to the node that wrote the replacement. If that very node wrote what undoes it, its database is an older
    copy, and it falls to the first of those that hold the bytes as well.

    Args:
        record: What undoes it.
        lost: The replacement.
        holders: Ids of the nodes that say that they hold its bytes.
        node_id: This node.
    """
    return lost.author == node_id or (lost.author == record.author and min(holders, default="") == node_id)


def together(record: Record, lost: Record, before: Mapping[str, Any]) -> PackageBody:
    """The body of a replacement with what an edit changed that did not know of it.

    Args:
        record: The edit.
        lost: The replacement.
        before: What was `described` before the replacement; what is not known of it counts as changed by the edit.
    """
    edit, body = package_body(record), package_body(lost)
    now = described(record)
    changed = {name: getattr(edit, name) for name in _DESCRIBED if before.get(name) != now.get(name)}
    if "metadata" in changed:
        changed["metadata"] = replace_installer(edit.metadata, body.metadata)  # that is of the bytes
    past = dict.fromkeys((*body.replaces, *edit.replaces))
    past.pop(body.sha256, None)
    return replace(body, **changed, replaces=tuple(past)[:LISTED])
