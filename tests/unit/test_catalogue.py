"""The packages in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import PackageUnknown
from appliance.domain.names import package_id
from appliance.domain.package import Package, Presence
from appliance.service.catalogue import Catalogue, package_doc, package_from
from appliance.store.opening import open_store
from appliance.store.ports import Replace, Store
from tests.builders import package_body

NOW = 1_800_000_000_000


def package(filename: str = "Größe.pkg", **changes: Any) -> Package:
    body = package_body(filename, tags=("a", "b"), replaces=("0" * 64,), metadata={"k": [1, {"x": None}]})
    made = Package(
        id=package_id(filename),
        revision=1,
        author="n",
        at=5,
        withdrawn=False,
        body=body,
        presence=Presence.HELD,
        reason="because",
        held_sha256=body.sha256,
        held_filename=filename,
    )
    return replace(made, **changes)


def with_store(tmp_path: Path, test: Callable[[Store, Catalogue], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        try:
            await test(store, Catalogue(store))
        finally:
            await store.close()

    asyncio.run(go())


async def keep(store: Store, made: Package, at: int = NOW) -> dict[str, Any]:
    (doc,) = await store.batch([Replace("packages", package_doc(made, at))])
    assert doc is not None
    return doc


def test_a_package_survives_the_store(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        made = package()
        assert package_from(await keep(store, made)) == made
        await catalogue.load()
        assert catalogue.by_id(made.id) == made
        assert catalogue.all() == [made]
        assert catalogue.rev(made.id) == 1
        assert catalogue.rev("other") == 0

    with_store(tmp_path, test)


def test_it_is_found_by_id_and_by_name_in_any_unicode_form(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        made = catalogue.take(await keep(store, package()))
        for text in (made.id, "Größe.pkg", "Gro\u0308ße.pkg", "größe.PKG"):
            assert catalogue.resolve(text) is made
        assert catalogue.by_filename("größe.pkg") is None
        for text in ("", "other.pkg", "../x", "a/b", "x" * 300, "\ud800"):
            with pytest.raises(PackageUnknown):
                catalogue.resolve(text)

    with_store(tmp_path, test)


def test_old_news_change_nothing(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        first = await keep(store, package())
        second = await keep(store, package(revision=2))
        assert catalogue.take(second).revision == 2
        assert catalogue.take(first).revision == 2
        assert catalogue.rev(second["_id"]) == second["_rev"]

    with_store(tmp_path, test)


def test_names_follow_the_view(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        catalogue.take(await keep(store, package("thing.pkg")))
        renamed = package_body("THING.pkg", b"other")
        catalogue.take(await keep(store, package("thing.pkg", body=renamed, presence=Presence.ARRIVING)))
        assert catalogue.by_filename("thing.pkg"), "the old file is still served"
        assert catalogue.by_filename("THING.pkg"), "the new name is known"
        catalogue.take(
            await keep(
                store,
                package("thing.pkg", body=renamed, held_sha256=renamed.sha256, held_filename="THING.pkg"),
            )
        )
        assert catalogue.by_filename("thing.pkg") is None
        assert catalogue.by_filename("THING.pkg")
        assert catalogue.named("thing.pkg") is catalogue.by_filename("THING.pkg"), "it is the same package"
        catalogue.forget(package_id("thing.pkg"))
        assert catalogue.by_filename("THING.pkg") is None
        assert catalogue.all() == []
        catalogue.forget("never known")

    with_store(tmp_path, test)


def test_what_other_processes_write_is_read(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        await keep(store, package("a.pkg"), NOW)
        await catalogue.load()
        await keep(store, package("b.pkg"), NOW - 30_000)  # a process whose clock is behind
        await keep(store, package("a.pkg", revision=2), NOW + 1)
        await catalogue.load()
        assert {p.body.filename: p.revision for p in catalogue.all()} == {"a.pkg": 2, "b.pkg": 1}

    with_store(tmp_path, test)


def test_many_packages_are_read_in_pages(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        made = [package(f"p{number}.pkg") for number in range(1100)]
        await store.batch([Replace("packages", package_doc(item, NOW)) for item in made])
        await catalogue.load()
        assert len(catalogue.all()) == 1100

    with_store(tmp_path, test)


def test_holders(tmp_path: Path) -> None:
    async def test(store: Store, catalogue: Catalogue) -> None:
        one, two = package("a.pkg"), package("b.pkg")
        gone = package("c.pkg", held_sha256="", held_filename="", presence=Presence.WAITING)
        for item in (one, two, gone):
            catalogue.take(await keep(store, item))
        assert sorted(catalogue.holders(one.held_sha256)) == sorted([one.id, two.id])
        assert catalogue.holders("") == [gone.id]

    with_store(tmp_path, test)
