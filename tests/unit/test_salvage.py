"""What is right of a damaged file is taken; the rest, and only the rest, is left to be fetched."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.domain.errors import Stopping
from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.service.hashing import hash_file
from appliance.service.salvage import salvage
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import make_file

SIZE = 4 * CHUNK_SIZE + 7


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file of four chunks and a short one."""
    return make_file(tmp_path / "whole", SIZE).path


@pytest.fixture
def manifest(whole: Path) -> Manifest:
    """What it is."""
    return hash_file(whole)


@pytest.fixture
def partial(tmp_path: Path, manifest: Manifest) -> Iterator[PartialFile]:
    """A fresh partial file of it."""
    layout = Layout(tmp_path)
    layout.partials.mkdir()
    with contextlib.closing(PartialFile.open(layout, "transfer", manifest)) as opened:
        yield opened


def flip(data: bytearray) -> bytearray:
    data[2 * CHUNK_SIZE + 5] ^= 1
    return data


@pytest.mark.parametrize(
    ("damage", "right"),
    [
        (lambda data: data, {0, 1, 2, 3, 4}),
        (flip, {0, 1, 3, 4}),
        (lambda data: data[: CHUNK_SIZE + 1], {0}),
        (lambda data: data[: SIZE - 1], {0, 1, 2, 3}),
        (lambda data: data + b"more", {0, 1, 2, 3, 4}),
        (lambda data: data[:0], set()),
    ],
)
def test_the_chunks_that_match_are_taken(
    damage: Callable[[bytearray], bytearray],
    right: set[int],
    whole: Path,
    manifest: Manifest,
    partial: PartialFile,
    tmp_path: Path,
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(damage(bytearray(whole.read_bytes())))
    before = damaged.read_bytes()
    sizes: list[int] = []
    salvage(damaged, manifest, partial, lambda: None, sizes.append)
    assert {index for index in range(manifest.count) if index in partial.chunks} == right
    assert sizes == [manifest.chunk_size(index) for index in sorted(right)]
    buffer = memoryview(bytearray(CHUNK_SIZE))
    for index in right:
        count = partial.read_into(index * CHUNK_SIZE, buffer[: manifest.chunk_size(index)])
        manifest.verify_chunk(index, buffer[:count])
    assert damaged.read_bytes() == before, "what was set aside stays for people to look at"


@pytest.mark.parametrize("name", ["none", "directory"])
def test_without_a_file_all_is_fetched(
    name: str, manifest: Manifest, partial: PartialFile, tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()  # opens, and cannot be read
    salvage(tmp_path / name, manifest, partial, lambda: None, lambda _: None)
    assert len(partial.chunks) == 0


def test_it_goes_on_where_it_was_cut_off(whole: Path, manifest: Manifest, partial: PartialFile) -> None:
    left = [3]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopping

    sizes: list[int] = []
    with pytest.raises(Stopping):
        salvage(whole, manifest, partial, check, sizes.append)
    salvage(whole, manifest, partial, lambda: None, sizes.append)
    assert partial.chunks.complete
    assert sum(sizes) == SIZE, "no chunk twice"
