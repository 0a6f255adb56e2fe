"""The manifest of a package: the ordered SHA-1 of every 1 MiB chunk, with the total size and whole-file hashes."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from .errors import ChunkInvalid, InvalidDigest, ManifestInvalid

CHUNK_SIZE = 1_048_576
SHA1_BYTES = 20

#: the digests that records carry, with their length in hexadecimal digits
HEX_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "sha3_512": 128}


class Hash(Protocol):
    """The part of a hashlib object that is used."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Feed bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


def sha1() -> Hash:
    """A SHA-1 that protects against accidents; the signed SHA-256 protects against people."""
    return hashlib.sha1(usedforsecurity=False)


def chunk_count(size: int) -> int:
    """How many chunks a file of `size` bytes has; an empty file has none."""
    return -(-size // CHUNK_SIZE)


def check_digest(kind: str, value: str) -> str:
    """Return a hex digest in lower case.

    Raises:
        InvalidDigest: It is not hexadecimal of the right length.
    """
    value = value.strip().lower()
    length = HEX_LENGTHS[kind]
    if len(value) != length or any(c not in "0123456789abcdef" for c in value):
        raise InvalidDigest(f"A {kind} checksum is {length} hexadecimal digits.")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a file must be, chunk by chunk."""

    size: int  #: bytes
    sha1: str  #: hex, of the whole file
    sha256: str  #: hex, of the whole file
    chunks: bytes  #: the SHA-1 of every chunk, 20 bytes each, packed in order

    def __post_init__(self) -> None:
        check_digest("sha1", self.sha1)
        check_digest("sha256", self.sha256)
        if self.size < 0 or len(self.chunks) != chunk_count(self.size) * SHA1_BYTES:
            raise ManifestInvalid(
                f"A file of {self.size} bytes has {chunk_count(max(self.size, 0))} chunks; "
                f"the manifest lists {len(self.chunks) / SHA1_BYTES:g}."
            )

    @property
    def digest(self) -> str:
        """The SHA-256 of the packed chunk list in hex: what a record signs to vouch for the manifest."""
        return hashlib.sha256(self.chunks).hexdigest()

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return chunk_count(self.size)

    def chunk_size(self, index: int) -> int:
        """The size in bytes of chunk `index`; only the last may be short."""
        return min(CHUNK_SIZE, self.size - index * CHUNK_SIZE)

    def chunk_digest(self, index: int) -> bytes:
        """The expected SHA-1 of chunk `index`, 20 raw bytes."""
        return self.chunks[index * SHA1_BYTES : (index + 1) * SHA1_BYTES]

    def verify_chunk(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Check one chunk.

        Raises:
            ChunkInvalid: The bytes are not those of the manifest.
        """
        if hashlib.sha1(data, usedforsecurity=False).digest() != self.chunk_digest(index):
            raise ChunkInvalid(f"Chunk {index} does not match the manifest.", index=index)
