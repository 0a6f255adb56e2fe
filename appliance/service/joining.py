"""Joins complete partial uploads to one (tus concatenation)."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from appliance.domain.errors import InvalidInput

from .receiving import BLOCK, Receiver
from .upload import Upload


class Uploads(Protocol):
    """What joining asks of the uploads."""

    def file(self, id: str) -> Path:
        """Where the bytes of an upload are."""

    async def rest(self, upload: Upload, receiver: Receiver, **changes: Any) -> None:
        """Make durable what there is."""

    async def forget(self, id: str) -> None:
        """Delete an upload and what was received."""


def joined_id(parts: Sequence[str]) -> str:
    """The id of the upload that joins these parts: asked again with the same ones, it goes on where it was."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def check_parts(asked: Sequence[str], found: Sequence[Upload]) -> None:
    """Let parts be joined.

    Raises:
        InvalidInput: One of them is unknown, no part, not complete or named twice.
    """
    complete = all(part.part and part.offset == part.size for part in found)
    if not asked or len(found) != len(asked) or len(set(asked)) != len(asked) or not complete:
        raise InvalidInput("Only complete partial uploads can be joined, each once.")


async def join_parts(uploads: Uploads, upload: Upload, receiver: Receiver) -> None:
    """Append the parts that are not in yet; each is deleted when it is.

    Raises:
        InvalidInput: A part is gone; nothing is kept.
    """
    for number, id in enumerate(upload.parts[upload.joined :], upload.joined + 1):
        try:
            source = await asyncio.to_thread(uploads.file(id).open, "rb")
        except FileNotFoundError as exc:
            await uploads.forget(upload.id)
            raise InvalidInput("A part has expired; upload the parts again.") from exc
        try:
            while data := await asyncio.to_thread(source.read, BLOCK):
                await receiver.write(data)
        finally:
            source.close()
        await uploads.rest(upload, receiver, joined=number)
        await uploads.forget(id)
