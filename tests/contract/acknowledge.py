"""A process that writes and says so: prints an id for each write that the store has acknowledged."""

import asyncio
import sys
from pathlib import Path

from appliance.domain.errors import DuplicateKey, StoreUnavailable
from appliance.store.opening import open_store
from appliance.store.ports import Insert, Replace


async def main(url: str, directory: Path, name: str) -> None:
    store = await open_store(url, directory)

    async def write(writer: int) -> None:
        number = 0
        while True:
            id_ = f"{name}-{writer}-{number}"
            try:
                await store.insert("packages", {"_id": id_, "notes": "." * 300})
                print(id_, flush=True)
                await store.batch([Insert("events", {"_id": id_}), Replace("records", {"_id": id_})])
                print(f"batch {id_}", flush=True)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            except DuplicateKey:
                pass  # it was done before the server died, and nobody could say so
            number += 1

    await asyncio.gather(*(write(writer) for writer in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
