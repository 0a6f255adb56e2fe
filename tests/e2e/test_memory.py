"""Memory does not grow with the size of a file."""

from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.conftest import BIG
from tests.harness import Network

SIZE = 4096 * MIB if BIG else 256 * MIB
BOUND = 200 * MIB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_peak_memory_while_a_file_is_uploaded_replicated_and_read(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a"), network.node("b")
    b.join(a)
    file = make_file(tmp_path / "Huge.pkg", SIZE)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256, 300)
    assert b.sha1(file.name) == file.sha1
    peaks = {node.name: node.rss_peak() // MIB for node in (a, b)}
    print(f"peak resident memory in MiB with a file of {SIZE // MIB} MiB: {peaks}")
    assert max(peaks.values()) < BOUND // MIB, peaks
