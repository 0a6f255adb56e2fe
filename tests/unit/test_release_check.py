"""Who is asked for a chunk before a copy is released, and who is left alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import Conflict, PackageArriving, PeerBackingOff, PeerError, PeerUnreachable
from appliance.domain.job import Job
from appliance.service.release_check import ReleaseCheck
from tests.builders import manifest_of, package_body

DATA = b"0123456789" * 1000
BODY = package_body("A.pkg", DATA)


class World:
    """Direct peers that do not answer, and a copy that may go once one of them proves that it has the file."""

    def __init__(self, *keepers: str) -> None:
        self.keepers = list(keepers)
        self.down: set[str] = set()
        self.left_alone: set[str] = set()
        self.admits = False
        self.asked: list[str] = []
        self.failures: list[str] = []
        self.package = SimpleNamespace(id="p", held_sha256=BODY.sha256, body=BODY)
        manifest = manifest_of(DATA)

        async def keepers_of(_package: Any) -> list[str]:
            return self.keepers

        async def manifest_of_package(_body: Any) -> Any:
            return manifest

        async def refresh(_id: str) -> Any:
            return self.package

        async def record_failure(node: str, _error: PeerError) -> None:
            self.failures.append(node)
            self.left_alone.add(node)

        def proof(_package: str, _sha256: str, _chunk: int, holder: str) -> bytes:
            self.asked.append(holder)
            raise PeerUnreachable("It is silent.")

        self.check = ReleaseCheck(
            catalogue=cast(Any, SimpleNamespace(refresh=refresh)),
            holdings=cast(Any, SimpleNamespace(
                admits=lambda _: self.admits, manifest=manifest_of_package, keepers=keepers_of, name_of=str
            )),
            blobs=cast(Any, None),
            peers=cast(Any, SimpleNamespace(
                is_active=lambda _: True, is_down=self.down.__contains__, backing_off=self.left_alone.__contains__,
                doubt=lambda _node, _package: "", get=str, record_failure=record_failure,
                client=lambda _: SimpleNamespace(proof=proof),
            )),
            verifying=cast(Any, None),
            calls=ThreadPoolExecutor(2),
            node_id="me",
        )  # fmt: skip

    async def run(self) -> None:
        job = Job(id="j", queue="release", name="package.release_check", args={"package": "p"})
        await self.check.run(job, cast(Any, SimpleNamespace(check=lambda: None)))


def test_a_peer_that_is_down_or_left_alone_is_not_asked() -> None:
    async def test() -> None:
        world = World("berlin", "paris")
        world.down.add("berlin")
        world.left_alone.add("paris")
        with pytest.raises(PeerError, match=r"berlin: It does not answer.*paris: It does not answer"):
            await world.run()
        assert world.asked == []

    asyncio.run(test())


def test_one_that_does_not_answer_keeps_no_other_check_waiting() -> None:
    async def test() -> None:
        world = World("berlin")
        for _ in range(3):
            with pytest.raises(PeerError, match=r"berlin: It"):
                await world.run()
        assert (world.asked, world.failures) == (["berlin"], ["berlin"])

    asyncio.run(test())


def test_a_relay_does_not_ask_a_holder_that_is_left_alone() -> None:
    async def test() -> None:
        world = World()
        package = cast(Any, world.package)
        with pytest.raises(PeerUnreachable):
            await world.check.answer(package, 0, "berlin")
        with pytest.raises(PeerBackingOff):
            await world.check.answer(package, 0, "berlin")
        assert world.asked == ["berlin"]

    asyncio.run(test())


def test_a_node_that_does_not_admit_the_package_itself_proves_nothing() -> None:
    """Of several that are to release it at the same time, each would otherwise prove it to the next."""

    async def test() -> None:
        world = World()
        with pytest.raises(Conflict, match="may release it"):
            await world.check.answer(cast(Any, world.package), 0, "me")
        world.admits = True
        world.package.held_sha256 = "others"
        world.package.reason = "it is fetched"
        with pytest.raises(PackageArriving):
            await world.check.answer(cast(Any, world.package), 0, "me")

    asyncio.run(test())
