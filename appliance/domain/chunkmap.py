"""Which chunks of a package are here: one bit each."""


class ChunkMap:
    """A set of chunk indexes below a fixed count. Not thread-safe: its owner locks."""

    def __init__(self, count: int, packed: bytes | None = None) -> None:
        """Make a map of `count` chunks, empty or from `packed` (bit i of byte i // 8 is chunk i, lowest first)."""
        size = -(-count // 8)
        if packed is not None and len(packed) != size:
            raise ValueError(f"a map of {count} chunks is {size} bytes, not {len(packed)}")
        self.count = count
        self._bits = bytearray(packed if packed is not None else size)
        if packed is not None and count % 8 and size:
            self._bits[-1] &= (1 << count % 8) - 1
        self._have = 0 if packed is None else int.from_bytes(self._bits).bit_count()
        self._frontier = 0

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & 1 << (index & 7))

    def __len__(self) -> int:
        return self._have

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return self._have == self.count

    def add(self, index: int) -> None:
        """Mark a chunk as here."""
        if index not in self:
            self._bits[index >> 3] |= 1 << (index & 7)
            self._have += 1

    def discard(self, index: int) -> None:
        """Mark a chunk as missing."""
        if index in self:
            self._bits[index >> 3] &= ~(1 << (index & 7)) & 0xFF
            self._have -= 1
            self._frontier = min(self._frontier, index)

    def frontier(self) -> int:
        """How many chunks from the start are here without a gap."""
        while self._frontier < self.count and self._frontier in self:
            self._frontier += 1
        return self._frontier

    def missing_runs(self, longest: int) -> list[range]:
        """The missing chunks as runs of at most `longest` neighbours, in order."""
        runs: list[range] = []
        start: int | None = None
        for index in range(self.count + 1):
            gone = index < self.count and index not in self
            if start is not None and (not gone or index - start == longest):
                runs.append(range(start, index))
                start = None
            if gone and start is None:
                start = index
        return runs

    def packed(self) -> bytes:
        """The map as bytes."""
        return bytes(self._bits)
