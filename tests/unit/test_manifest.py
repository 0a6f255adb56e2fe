"""Manifests: what a file must be, chunk by chunk."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import ChunkInvalid, InvalidDigest, ManifestInvalid
from appliance.domain.manifest import CHUNK_SIZE, SHA1_BYTES, Manifest, check_digest, chunk_count
from tests.builders import manifest_of

SHA1, SHA256 = "0" * 40, "0" * 64
SIZES = [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 5 * CHUNK_SIZE, 5 * CHUNK_SIZE + 7]


def bare(size: int, chunks: int | None = None) -> Manifest:
    """A manifest of no file in particular."""
    return Manifest(
        size=size,
        sha1=SHA1,
        sha256=SHA256,
        chunks=bytes(SHA1_BYTES * (chunk_count(size) if chunks is None else chunks)),
    )


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [
        (1, 1, 1),
        (CHUNK_SIZE - 1, 1, CHUNK_SIZE - 1),
        (CHUNK_SIZE, 1, CHUNK_SIZE),
        (CHUNK_SIZE + 1, 2, 1),
        (100 * 10**9, 95_368, 100 * 10**9 - 95_367 * CHUNK_SIZE),
    ],
)
def test_counts_and_the_short_last_chunk(size: int, count: int, last: int) -> None:
    manifest = bare(size)
    assert (manifest.count, manifest.chunk_size(count - 1)) == (count, last)


def test_an_empty_file_has_no_chunks() -> None:
    manifest = manifest_of(b"")
    assert (manifest.count, manifest.chunks) == (0, b"")
    assert manifest.sha1 == "da39a3ee5e6b4b0d3255bfef95601890afd80709"
    assert manifest.digest == hashlib.sha256(b"").hexdigest()


@given(st.integers(0, 10**12))
def test_the_sizes_of_all_chunks_add_up(size: int) -> None:
    count = chunk_count(size)
    assert (count - 1) * CHUNK_SIZE < size <= count * CHUNK_SIZE if size else count == 0
    if 0 < count < 5000:
        manifest = bare(size)
        assert sum(manifest.chunk_size(index) for index in range(count)) == size


@given(st.integers(0, 50 * CHUNK_SIZE), st.integers(0, 60))
def test_a_list_of_another_length_is_refused(size: int, count: int) -> None:
    if count == chunk_count(size):
        bare(size, count)
        return
    with pytest.raises(ManifestInvalid, match=str(size)):
        bare(size, count)


def test_impossible_manifests_are_refused() -> None:
    with pytest.raises(ManifestInvalid):
        Manifest(size=-1, sha1=SHA1, sha256=SHA256, chunks=b"")
    with pytest.raises(ManifestInvalid):
        Manifest(size=1, sha1=SHA1, sha256=SHA256, chunks=bytes(SHA1_BYTES - 1))
    with pytest.raises(InvalidDigest, match="sha1"):
        Manifest(size=0, sha1="", sha256=SHA256, chunks=b"")
    with pytest.raises(InvalidDigest, match="sha256"):
        Manifest(size=0, sha1=SHA1, sha256="x" * 64, chunks=b"")


@pytest.mark.parametrize("size", SIZES)
def test_every_chunk_of_the_file_itself_verifies(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    manifest = manifest_of(data)
    for index in range(manifest.count):
        chunk = data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]
        assert manifest.chunk_size(index) == len(chunk)
        manifest.verify_chunk(index, memoryview(chunk))


@given(st.integers(0, 2 * CHUNK_SIZE + 9), st.integers(0, 7))
def test_one_flipped_bit_is_found_and_named(position: int, bit: int) -> None:
    data = bytearray(2 * CHUNK_SIZE + 10)
    manifest = manifest_of(bytes(data))
    data[position] ^= 1 << bit
    for index in range(3):
        chunk = data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]
        if index == position // CHUNK_SIZE:
            with pytest.raises(ChunkInvalid) as caught:
                manifest.verify_chunk(index, chunk)
            assert caught.value.details == {"index": index}
            assert caught.value.retryable
        else:
            manifest.verify_chunk(index, chunk)


def test_swapped_and_short_chunks_are_found() -> None:
    first, second = b"a" * CHUNK_SIZE, b"b" * CHUNK_SIZE
    manifest = manifest_of(first + second)
    for index, data in ((0, second), (1, first), (0, first[:-1]), (1, b"")):
        with pytest.raises(ChunkInvalid):
            manifest.verify_chunk(index, data)


@given(st.lists(st.binary(min_size=SHA1_BYTES, max_size=SHA1_BYTES), min_size=1, max_size=20), st.data())
def test_the_digest_depends_on_every_chunk_and_their_order(digests: list[bytes], data: st.DataObject) -> None:
    size = len(digests) * CHUNK_SIZE
    whole = Manifest(size=size, sha1=SHA1, sha256=SHA256, chunks=b"".join(digests))
    assert [whole.chunk_digest(index) for index in range(whole.count)] == digests
    shuffled = data.draw(st.permutations(digests))
    other = Manifest(size=size, sha1=SHA1, sha256=SHA256, chunks=b"".join(shuffled))
    assert (other.digest == whole.digest) == (shuffled == digests)


def test_digests_are_read_leniently_and_checked_strictly() -> None:
    assert check_digest("sha1", f" {'AB' * 20}\n") == "ab" * 20
    for kind, length in (("md5", 32), ("sha1", 40), ("sha256", 64), ("sha512", 128)):
        assert check_digest(kind, "f" * length) == "f" * length
        for wrong in ("", "f" * (length - 1), "f" * (length + 1), "g" * length, "\uff10" * length):
            with pytest.raises(InvalidDigest, match=f"{length} hexadecimal"):
                check_digest(kind, wrong)
