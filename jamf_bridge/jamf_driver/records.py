"""Jamf Pro package records: reading them as the bridge sees packages, and writing the fields that are ours.

Jamf Pro replaces a record as a whole, does not check the hashes it is given, and forgets the size of a file in its
cloud when the record is written. So: the fields that are ours are merged into the record as it is at that moment, and
a record whose bytes lie in the cloud is left alone.
"""

import logging
from collections.abc import Mapping
from typing import Any

from appliance.domain.mdm_errors import MdmRefused

from ..digests import agree, unlike
from ..driver import CloudState, Mirrored, PackageFacts, RemotePackage
from ..jamf import JamfConflict, JamfNotFound, Server
from ..jamf.cloud_files import CloudFile
from ..names import forms, nfc
from .translating import mdm_errors

log = logging.getLogger(__name__)

SHA3_SINCE = (11, 25)  #: before it, clients do not know SHA3_512 (jamf-upload#374)
_KINDS = {"MD5": "md5", "SHA_256": "sha256", "SHA_512": "sha512", "SHA3_512": "sha3_512"}
_FIELDS = {"md5": "md5", "sha256": "sha256", "sha3512": "sha3_512"}
_DESCRIBING = ("packageName", "categoryId", "notes")
_NO_CATEGORY = "-1"


def remote_package(data: Mapping[str, Any], file: CloudFile | None, *, listed: bool) -> RemotePackage:
    """A package record as the bridge sees it.

    Args:
        data: The record.
        file: What the cloud says of the file of its name.
        listed: Whether the cloud's files could be listed.
    """
    state = CloudState.NONE
    size: int | None = None
    match str(data.get("cloudTransferStatus") or "").upper():
        case "ERROR":
            state = CloudState.ERROR
        case "PENDING":
            state = CloudState.PENDING
        case "READY":
            state = CloudState.READY
        case _ if file is not None:
            state = CloudState.READY  # versions before 11.23 do not say
        case _ if _has_size(data):
            state = CloudState.PENDING  # nor whether a file is missing from this one list
    hashes = _stated(data) if state is CloudState.NONE else _computed(data)
    if file is not None and state is CloudState.READY:
        cloud = {kind: value.lower() for kind, value in (("md5", file.md5), ("sha3_512", file.sha3)) if value}
        if file.length == 0:
            state = CloudState.ERROR  # the record is there, the upload never landed
        elif not cloud or unlike(hashes, cloud):
            state = CloudState.PENDING  # the record and the cloud do not agree yet
        size, hashes = file.length, {**hashes, **cloud}
    elif state is CloudState.READY and listed:
        state = CloudState.PENDING  # not in the list yet
    return RemotePackage(
        id=str(data["id"]),
        file_name=str(data.get("fileName") or ""),
        name=str(data.get("packageName") or ""),
        state=state,
        size=size,
        hashes=hashes,
        fields=dict(data),
    )


def _same_name(record: Any, file_name: str) -> bool:
    return nfc(str(record.data.get("fileName") or "")) == file_name


def _stated(data: Mapping[str, Any]) -> dict[str, str]:
    found = {kind: str(data[name]).lower() for name, kind in _FIELDS.items() if data.get(name)}
    kind = _KINDS.get(str(data.get("hashType") or "").upper())
    if kind and data.get("hashValue"):
        found[kind] = str(data["hashValue"]).lower()
    return found


def _has_size(data: Mapping[str, Any]) -> bool:
    """Whether a record of a version that does not state the transfer has a size: only files in the cloud have one."""
    return "cloudTransferStatus" not in data and str(data.get("size") or "0").strip("0") != ""


def _computed(data: Mapping[str, Any]) -> dict[str, str]:
    """What Jamf Pro says of bytes in its cloud. Hashes of other kinds may be those that were written before."""
    fields = {name: data.get(name) for name in ("md5", "sha3512", "hashType", "hashValue")}
    return _stated(fields)


def _taken(*names: str) -> MdmRefused:
    called = " and ".join(f'"{name}"' for name in names)
    return MdmRefused(
        f"Jamf Pro has other records called {called}. Rename them, or change the template of names (mirror.name)."
    )


class PackageRecords:
    """Writes package records of one server."""

    def __init__(self, server: Server, version: tuple[int, ...]) -> None:
        self._server = server
        self._version = version
        self._categories: dict[str, str] = {}

    def _hashes(self, facts: PackageFacts) -> dict[str, str]:
        """The hash fields of a record: that which clients check, and those that Jamf Pro shows beside it."""
        modern = self._version >= SHA3_SINCE
        order = ["SHA3_512", "SHA_512", "SHA_256"] if modern else ["SHA_512", "SHA_256"]
        chosen = next((word for word in order if _KINDS[word] in facts.hashes), "")
        if not chosen:
            raise MdmRefused(f'No hash that Jamf Pro knows is there for "{facts.file_name}".')
        fields = {"hashType": chosen, "hashValue": facts.hashes[_KINDS[chosen]]}
        for name, kind in _FIELDS.items():
            if kind in facts.hashes and (modern or name != "sha3512"):
                fields[name] = facts.hashes[kind]
        return fields

    async def ensure(
        self, facts: PackageFacts, *, remote: RemotePackage | None, known_id: str, sent: Mapping[str, Any]
    ) -> Mirrored:
        """As `Driver.ensure_package_record`."""
        with mdm_errors():
            for id in dict.fromkeys(filter(None, (remote.id if remote is not None else "", known_id))):
                found = await self._by_id(id, facts.file_name)
                if found is not None:
                    return await self._merge(found, facts, sent)
            if remote is not None:  # listed, and not there by its id: the next listing tells which is true
                return Mirrored(remote_id=remote.id, sent=sent, pending=True)
            found = await self._by_file_name(facts.file_name)
            return await (self._create(facts) if found is None else self._merge(found, facts, sent))

    async def _by_id(self, id: str, file_name: str) -> Any:
        """The record of an id if it is still that of this file, else None."""
        try:
            record = await self._server.Packages().recordWithId(id)
        except JamfNotFound:
            return None
        return record if _same_name(record, file_name) else None

    async def _by_file_name(self, file_name: str) -> Any:
        names = forms(file_name)
        same = await self._server.Packages().filter(fileName=names if len(names) > 1 else file_name)
        return next((record for record in same if _same_name(record, file_name)), None)

    async def _create(self, facts: PackageFacts) -> Mirrored:
        """Create a record; the caller did not find one, in the list and by a look-up.

        A refusal that there is such a record means to look again. Another name is taken only if Jamf Pro then shows
        whose the name is: a record of another file. Else it hides one of ours, and a second one must not be made.
        """
        fields = {
            "packageName": facts.record_name or facts.file_name,
            "categoryId": await self._category(facts.record_category),
            "notes": facts.record_notes,
            **self._hashes(facts),
        }
        try:
            return await self._created(facts, fields)
        except JamfConflict as exc:
            found = await self._by_file_name(facts.file_name)
            if found is not None:
                return await self._merge(found, facts, {})
            holders = []
            if exc.field in {"packageName", ""}:
                holders = await self._server.Packages().recordsWithName(fields["packageName"])
            if not holders or any(_same_name(record, facts.file_name) for record in holders):
                raise MdmRefused(
                    f'Jamf Pro says that there is a record called "{fields["packageName"]}", and does not show it. ODS '
                    "looks again before it creates one."
                ) from exc
            if fields["packageName"] == facts.file_name:  # no other name is left to try
                raise _taken(facts.file_name) from exc
        try:
            return await self._created(facts, {**fields, "packageName": facts.file_name})
        except JamfConflict as exc:
            found = await self._by_file_name(facts.file_name)
            if found is not None:
                return await self._merge(found, facts, {})
            raise _taken(fields["packageName"], facts.file_name) from exc

    async def _created(self, facts: PackageFacts, fields: Mapping[str, Any]) -> Mirrored:
        record = await self._server.Packages().create({**fields, "fileName": facts.file_name})
        return Mirrored(remote_id=record.id, created=True, changed=True, sent=fields)

    async def _merge(self, record: Any, facts: PackageFacts, sent: Mapping[str, Any]) -> Mirrored:
        data = record.data
        if str(data.get("cloudTransferStatus") or "").upper() in {"READY", "PENDING"} or _has_size(data):
            return self._backed_by_cloud(record, facts, sent)
        wanted: dict[str, Any] = {}
        notes = facts.record_notes
        if notes and "notes" in sent and data.get("notes") == sent["notes"] != notes:
            wanted["notes"] = notes  # ours, and nobody wrote there since
        wanted |= self._hashes(facts)
        changed = {name: value for name, value in wanted.items() if data.get(name) != value}
        for name, value in changed.items():
            record.set_path(name, value)
        if changed:
            await record.save()
        kept = {name: sent[name] for name in _DESCRIBING if name in sent}
        return Mirrored(remote_id=record.id, changed=bool(changed), sent={**kept, **wanted})

    def _backed_by_cloud(self, record: Any, facts: PackageFacts, sent: Mapping[str, Any]) -> Mirrored:
        if agree(facts.hashes, _computed(record.data)):
            return Mirrored(remote_id=record.id, sent=sent)
        return Mirrored(
            remote_id=record.id,
            sent=sent,
            conflict=f'Jamf Pro\'s cloud holds other bytes under "{facts.file_name}"; its record was left as it is.',
        )

    async def _category(self, name: str) -> str:
        if not name:
            return _NO_CATEGORY
        if name not in self._categories:
            found = await self._server.Categories().recordsWithName(name)
            if not found:
                log.warning(
                    "Jamf Pro has no such category",
                    extra={"action": "jamf_category_missing", "category": name},
                )
                return _NO_CATEGORY
            self._categories[name] = found[0].id
        return self._categories[name]

    async def withdraw(self, remote_id: str, *, policy: str, when: str) -> Mirrored:
        """As `Driver.withdraw_package_record`."""
        with mdm_errors():
            try:
                record = await self._server.Packages().recordWithId(remote_id)
            except JamfNotFound:
                return Mirrored(remote_id=remote_id)
            if policy == "delete":
                await record.delete()
                return Mirrored(remote_id=remote_id, changed=True)
            mark = f"Withdrawn from Open Distribution Server on {when}."
            notes = str(record.data.get("notes") or "")
            if policy == "mark" and "Withdrawn from Open Distribution Server" not in notes:
                record.set_path("notes", f"{mark}\n{notes}".strip())
                await record.save()
                return Mirrored(remote_id=remote_id, changed=True)
        return Mirrored(remote_id=remote_id)
