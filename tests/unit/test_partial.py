"""Files being fetched: only what was verified and written is believed."""

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.domain.errors import StorageFull
from appliance.domain.manifest import CHUNK_SIZE
from appliance.store import partial as module
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import aligned_buffer, write_past_cache
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import manifest_of

DATA = random.Random(1).randbytes(3 * CHUNK_SIZE + 100)
MANIFEST = manifest_of(DATA)
ALL = {0, 1, 2, 3}


@pytest.fixture(params=["0", "1"], ids=["fast", "portable"])
def layout(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("ODS_PORTABLE", request.param)
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    return layout


def write(partial: PartialFile, *indexes: int) -> None:
    for index in indexes:
        partial.write_chunk(index, memoryview(DATA)[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])


def believed(layout: Layout) -> set[int]:
    partial = PartialFile.open(layout, "t", MANIFEST)
    try:
        return {index for index in range(MANIFEST.count) if index in partial.chunks}
    finally:
        partial.close()


def spoil(layout: Layout, index: int) -> None:
    with layout.partial("t").open("r+b") as file:
        file.seek(index * CHUNK_SIZE)
        file.write(b"never reached the disk")


def test_from_nothing_to_a_blob(layout: Layout) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, 3, 1, 0, 2)
    assert partial.chunks.complete
    buffer = memoryview(bytearray(10))
    assert partial.read_into(CHUNK_SIZE - 5, buffer) == 10
    assert bytes(buffer) == DATA[CHUNK_SIZE - 5 : CHUNK_SIZE + 5]
    path = partial.finish()
    partial.close()
    assert path.read_bytes() == DATA
    assert [entry.name for entry in layout.partials.iterdir()] == ["t"]


def test_chunks_outlive_the_process(layout: Layout) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, 0, 2)  # and no close: as after a kill
    assert believed(layout) == {0, 2}
    partial.close()


def test_after_a_power_cut_every_chunk_is_checked(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, *ALL)
    partial.close()
    spoil(layout, 1)
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    assert believed(layout) == {0, 2, 3}
    # The map now carries this boot's id: what failed then must not be believed later.
    assert believed(layout) == {0, 2, 3}


def test_within_one_boot_the_marks_are_believed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "boot_id", lambda: "this boot")
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, *ALL)
    partial.close()
    spoil(layout, 1)
    assert believed(layout) == ALL  # nothing was read again


def test_without_boot_ids_every_chunk_is_checked(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "boot_id", lambda: "")
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, *ALL)
    partial.close()
    spoil(layout, 2)
    assert believed(layout) == {0, 1, 3}


@pytest.mark.parametrize("damage", ["other bytes", "no map", "short map", "garbage", "short file"])
def test_what_does_not_fit_is_begun_anew_or_less_believed(layout: Layout, damage: str) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, *ALL)
    partial.close()
    if damage == "other bytes":
        other = PartialFile.open(layout, "t", manifest_of(DATA[:-1] + b"x"))
        assert len(other.chunks) == 0
        other.close()
    elif damage == "no map":
        layout.chunk_map("t").unlink()
        assert believed(layout) == set()
    elif damage == "short map":
        with layout.chunk_map("t").open("r+b") as file:
            file.truncate(module._HEADER + 2)
        assert believed(layout) == {0, 1}
    elif damage == "garbage":
        layout.chunk_map("t").write_bytes(b"\xff" * 600)
        assert believed(layout) == set()
    else:
        with layout.partial("t").open("r+b") as file:
            file.truncate(10)
        assert believed(layout) == set()


def test_a_file_for_which_there_is_no_room_is_not_begun(layout: Layout) -> None:
    def check(needed: int) -> None:
        assert needed == MANIFEST.size
        raise StorageFull

    with pytest.raises(StorageFull):
        PartialFile.open(layout, "t", MANIFEST, check_space=check)
    assert list(layout.partials.iterdir()) == []


def test_an_empty_file_is_complete_at_once(layout: Layout) -> None:
    partial = PartialFile.open(layout, "t", manifest_of(b""))
    assert partial.chunks.complete
    assert partial.finish().read_bytes() == b""


def test_discard_leaves_nothing(layout: Layout) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    write(partial, 0)
    partial.discard()
    assert list(layout.partials.iterdir()) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.sampled_from(sorted(ALL))), max_size=5))
def test_any_lives_add_up(layout: Layout, lives: list[set[int]]) -> None:
    PartialFile.open(layout, "t", MANIFEST).discard()
    written: set[int] = set()
    for life in lives:
        assert believed(layout) == written
        partial = PartialFile.open(layout, "t", MANIFEST)
        write(partial, *life)
        partial.close()
        written |= life
    assert believed(layout) == written


def direct(partial: PartialFile, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> list[int]:
    """Note which chunks are written past the cache, by a disk that takes its time or none."""
    found: list[int] = []
    clock = itertools.count(0.0, module._SLOW_S * 2 if slow else 0.0)

    def past(descriptor: int, data: memoryview, offset: int) -> bool:
        found.append(offset // CHUNK_SIZE)
        return write_past_cache(descriptor, data, offset)

    monkeypatch.setattr(module, "write_past_cache", past)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    return found


@pytest.mark.parametrize("slow", [False, True])
def test_a_slow_disk_gets_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    data = random.Random(2).randbytes(20 * CHUNK_SIZE + 1)
    partial = PartialFile.open(layout, "t", manifest_of(data))
    if partial._direct < 0:
        pytest.skip("this disk cannot be written to past the cache")
    found = direct(partial, monkeypatch, slow=slow)
    buffer = aligned_buffer(CHUNK_SIZE)
    for index in range(partial.chunks.count):
        size = partial.chunks.count - 1 == index or CHUNK_SIZE
        buffer[:size] = data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]
        partial.write_chunk(index, buffer[:size])
    assert found == list(range(module._SLOW_CHUNKS if slow else 20))
    assert partial.finish().read_bytes() == data


def test_a_disk_that_refuses_gets_the_cache(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = PartialFile.open(layout, "t", MANIFEST)
    monkeypatch.setattr(module, "write_past_cache", lambda *_: False)
    write(partial, *ALL)
    assert partial.finish().read_bytes() == DATA
