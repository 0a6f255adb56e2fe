"""Fingerprints of records, and the digest by which two nodes find what one of them lacks.

A record's fingerprint is a number of 52 bits: 12 say its bucket and follow from its key, 40 follow from key and
signature, so every revision has another one. A digest has, of each of the 4,096 buckets, how many records it holds and
the sum of their 40 bits. Stores count and add over an index, without reading records. Two sets that differ have the
same digest once in 2^40 times; what only an author could arrange hides nothing but records of that author.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BUCKET_BITS = 12
BUCKETS = 1 << BUCKET_BITS
LOW_BITS = 40
LOW_BYTES = LOW_BITS // 8
_MASK = (1 << LOW_BITS) - 1
_BUCKET_BYTES = 8
DIGEST_BYTES = BUCKETS * _BUCKET_BYTES
_COUNT_BITS = 14
_WORD = (1 << 64) - 1


def fingerprint(key: str, signature: str) -> int:
    """The fingerprint of a record.

    Args:
        key: Its key in the store, kind and id.
        signature: Its signature, which covers all else.
    """
    return bucket_of_key(key) << LOW_BITS | _bits(f"{key}\0{signature}", LOW_BITS)


def bucket_of_key(key: str) -> int:
    """The bucket of all revisions of a record."""
    return _bits(key, BUCKET_BITS)


def _bits(text: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> (
        64 - count
    )


def bucket_range(bucket: int) -> tuple[int, int]:
    """The first fingerprint of a bucket, and the first behind it."""
    return bucket << LOW_BITS, (bucket + 1) << LOW_BITS


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of a set of records: 8 bytes for each bucket."""

    buckets: bytes

    @classmethod
    def of(cls, sums: Mapping[int, tuple[int, int]]) -> "Digest":
        """The digest of counts and sums by bucket; a bucket that is missing is empty."""
        words = [0] * BUCKETS
        for bucket, (count, total) in sums.items():
            words[bucket % BUCKETS] = (total << _COUNT_BITS | count & ((1 << _COUNT_BITS) - 1)) & _WORD
        return cls(struct.pack(f">{BUCKETS}Q", *words))

    @property
    def root(self) -> str:
        """One word for all of it, hex."""
        return hashlib.sha256(self.buckets).hexdigest()

    def differing(self, other: "Digest") -> list[int]:
        """The buckets in which two digests differ."""
        mine, theirs = (struct.unpack(f">{BUCKETS}Q", each.buckets) for each in (self, other))
        return [bucket for bucket, (one, two) in enumerate(zip(mine, theirs, strict=True)) if one != two]


def pack_bucket(prints: Sequence[int]) -> bytes:
    """The fingerprints of one bucket, 5 bytes each."""
    return b"".join((value & _MASK).to_bytes(LOW_BYTES, "big") for value in prints)


def unpack_bucket(bucket: int, packed: bytes) -> set[int]:
    """The fingerprints of one bucket.

    Raises:
        ValueError: It is cut off.
    """
    if len(packed) % LOW_BYTES:
        raise ValueError("a list of fingerprints is cut off")
    start = bucket << LOW_BITS
    return {
        start | int.from_bytes(packed[at : at + LOW_BYTES], "big") for at in range(0, len(packed), LOW_BYTES)
    }
