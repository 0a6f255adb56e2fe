"""Chunk maps, compared with a plain set."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.domain.chunkmap import ChunkMap

counts = st.integers(0, 70)


@st.composite
def maps(draw: st.DrawFn) -> tuple[ChunkMap, set[int]]:
    """A map, and the chunks in it."""
    count = draw(counts)
    chunks = draw(st.sets(st.integers(0, count - 1))) if count else set()
    made = ChunkMap(count)
    for index in chunks:
        made.add(index)
    return made, chunks


@given(maps())
def test_it_is_what_was_added(made: tuple[ChunkMap, set[int]]) -> None:
    chunk_map, chunks = made
    assert {index for index in range(chunk_map.count) if index in chunk_map} == chunks
    assert len(chunk_map) == len(chunks)
    assert chunk_map.complete == (len(chunks) == chunk_map.count)


@given(maps())
def test_packing_loses_nothing(made: tuple[ChunkMap, set[int]]) -> None:
    chunk_map, chunks = made
    packed = chunk_map.packed()
    assert len(packed) == -(-chunk_map.count // 8)
    again = ChunkMap(chunk_map.count, packed)
    assert (again.packed(), len(again)) == (packed, len(chunks))
    assert {index for index in range(chunk_map.count) if packed[index // 8] >> index % 8 & 1} == chunks


@given(counts, st.binary(max_size=12))
def test_packed_bits_of_strangers_are_bounded(count: int, packed: bytes) -> None:
    if len(packed) != -(-count // 8):
        with pytest.raises(ValueError, match=str(count)):
            ChunkMap(count, packed)
        return
    chunk_map = ChunkMap(count, packed)
    assert len(chunk_map) <= count
    assert len(chunk_map) == sum(index in chunk_map for index in range(count))
    assert chunk_map.missing_runs(1000) == ChunkMap(count, chunk_map.packed()).missing_runs(1000)


@given(maps(), st.integers(1, 20))
def test_missing_runs_are_the_missing_chunks_in_order(made: tuple[ChunkMap, set[int]], longest: int) -> None:
    chunk_map, chunks = made
    runs = chunk_map.missing_runs(longest)
    assert [index for run in runs for index in run] == sorted(set(range(chunk_map.count)) - chunks)
    assert all(0 < len(run) <= longest for run in runs)
    # No run could be longer.
    for run, following in itertools.pairwise(runs):
        assert len(run) == longest or following.start > run.stop


@given(maps())
def test_the_frontier_is_the_first_gap(made: tuple[ChunkMap, set[int]]) -> None:
    chunk_map, chunks = made
    expected = next((index for index in range(chunk_map.count) if index not in chunks), chunk_map.count)
    assert chunk_map.frontier() == expected


class Machine(RuleBasedStateMachine):
    """Adds, discards and asks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.map = ChunkMap(37)
        self.model: set[int] = set()

    @rule(index=st.integers(0, 36))
    def add(self, index: int) -> None:
        self.map.add(index)
        self.model.add(index)

    @rule(stop=st.integers(0, 37))
    def add_from_the_start(self, stop: int) -> None:
        for index in range(stop):
            self.add(index)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.model)))
        self.map.discard(index)
        self.model.discard(index)

    @rule()
    def ask_for_the_frontier(self) -> None:
        # Asking moves a cursor inside; it must come back after a discard.
        assert self.map.frontier() == next((index for index in range(37) if index not in self.model), 37)

    @invariant()
    def agree(self) -> None:
        assert len(self.map) == len(self.model)
        assert self.map.complete == (len(self.model) == 37)


TestMachine = Machine.TestCase
