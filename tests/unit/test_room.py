"""A transfer that stopped because the disk was full begins again when there is room, not when its turn comes."""

import asyncio
from typing import Any

from appliance.service.transfers import Transfers


class Holdings:
    """Notes what is settled."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, bool]] = []

    async def settle(self, package: str, *, again: bool = False) -> None:
        self.settled.append((package, again))


def test_it_begins_again_as_soon_as_it_fits() -> None:
    async def test() -> None:
        holdings: Any = Holdings()
        none: Any = None
        transfers = Transfers(
            store=none,
            records=none,
            catalogue=none,
            holdings=holdings,
            peers=none,
            node_id="me",
            now=lambda: 0,
        )
        free = 10
        transfers.fits = lambda needed: needed <= free
        for package, needed in (("large", 100), ("small", 5)):
            transfers.lacks_room(package, needed)
        await transfers._look_for_room()
        assert holdings.settled == [("small", True)], "a large one does not hold up a small one"
        await transfers._look_for_room()
        assert len(holdings.settled) == 1, "each begins once"
        free = 200
        await transfers._look_for_room()
        assert holdings.settled[1:] == [("large", True)]

    asyncio.run(test())
