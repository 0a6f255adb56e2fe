"""Which versions are kept, for how long, and which one is meant."""

from dataclasses import replace

import pytest

from appliance.domain.errors import Conflict, InvalidInput, VersionUnknown
from appliance.domain.package import Package, Presence
from appliance.domain.trash import DAY_MS, Keeping, Version, Why, choose, is_back, leaving
from tests.builders import package_body

OLD, NEW = package_body(data=b"old"), package_body(data=b"new")
AT = 1_900_000_000_000
KEEPING = Keeping(days=7, versions=2)


def package(body: object = OLD, **changes: object) -> Package:
    fields: dict[str, object] = {
        "id": "p", "revision": 4, "author": "n" * 52, "at": 5, "withdrawn": False, "body": body,
        "presence": Presence.HELD, "held_sha256": OLD.sha256, "held_filename": OLD.filename,
    }  # fmt: skip
    return Package(**{**fields, **changes})  # type: ignore[arg-type]


def version(sha256: str = "a" * 64, **changes: object) -> Version:
    fields: dict[str, object] = {
        "package": "p", "sha256": sha256, "filename": "x.pkg", "size": 3, "revision": 1, "author": "n" * 52,
        "why": Why.REPLACED, "at": AT, "body": OLD,
    }  # fmt: skip
    return Version(**{**fields, **changes})  # type: ignore[arg-type]


def held(body: object) -> Package:
    return package(body, held_sha256=body.sha256)  # type: ignore[attr-defined]


SUCCESSOR = replace(NEW, replaces=(OLD.sha256,))
GONE = {"held_sha256": "", "held_filename": ""}


@pytest.mark.parametrize(
    ("old", "view", "why"),
    [
        (None, held(OLD), None),
        (held(OLD), held(SUCCESSOR), Why.REPLACED),
        (held(OLD), package(SUCCESSOR, presence=Presence.ARRIVING), Why.REPLACED),
        (held(OLD), held(NEW), Why.SUPERSEDED),
        (held(OLD), package(withdrawn=True, presence=Presence.WITHDRAWN, **GONE), Why.WITHDRAWN),
        (held(OLD), package(replace(OLD, notes="n")), None),
        (held(OLD), package(replace(OLD, stage="dev"), presence=Presence.NOT_ADMITTED, **GONE), None),
        (held(OLD), package(replace(SUCCESSOR, stage="dev"), presence=Presence.NOT_ADMITTED, **GONE), Why.REPLACED),
        (package(presence=Presence.WAITING, **GONE), held(SUCCESSOR), Why.REPLACED),
        (package(presence=Presence.WAITING, **GONE), package(presence=Presence.ARRIVING, **GONE), None),
        (package(presence=Presence.NOT_ADMITTED, **GONE), held(SUCCESSOR), None),
        (package(SUCCESSOR, presence=Presence.ARRIVING), held(SUCCESSOR), None),
        (package(presence=Presence.ARRIVING, held_sha256=NEW.sha256), held(SUCCESSOR), Why.REPLACED),
        (package(presence=Presence.DAMAGED, **GONE), package(withdrawn=True, **GONE), None),
    ],
    ids=[
        "new", "replaced", "replaced, still served", "lost a conflict", "withdrawn", "changed", "released",
        "replaced by what is not admitted", "wanted, if it is here", "still wanted", "not wanted",
        "noted before", "wanted, while another is served", "damaged before",
    ],
)  # fmt: skip
def test_what_ends_a_version(old: Package | None, view: Package, why: Why | None) -> None:
    found = leaving(old, view, at=AT)
    assert (found.why if found else None) == why
    if found:
        assert (found.sha256, found.revision, found.body, found.at) == (OLD.sha256, 4, OLD, AT)


@pytest.mark.parametrize(
    ("old", "view", "back"),
    [
        (None, held(OLD), False),
        (None, held(SUCCESSOR), True),
        (package(presence=Presence.ARRIVING, **GONE), held(OLD), False),
        (package(withdrawn=True, **GONE), held(OLD), True),
        (held(SUCCESSOR), held(replace(OLD, replaces=(NEW.sha256,))), True),
        (package(SUCCESSOR, presence=Presence.ARRIVING), package(OLD), True),
        (held(OLD), package(replace(OLD, notes="n")), False),
        (held(OLD), package(withdrawn=True, **GONE), False),
    ],
    ids=[
        "new",
        "first seen",
        "arrived",
        "restored",
        "restored by another",
        "back before it left",
        "changed",
        "withdrawn",
    ],
)
def test_what_brings_a_version_back(old: Package | None, view: Package, back: bool) -> None:
    assert is_back(old, view) is back


def test_what_has_expired_goes_the_oldest_first() -> None:
    versions = [version(c * 64, package=c, at=AT + i) for i, c in enumerate("abcd")]
    assert KEEPING.surplus(versions, served=(), now=AT + 7 * DAY_MS - 1) == []
    assert KEEPING.surplus(versions[::-1], served=(), now=AT + 7 * DAY_MS + 1) == versions[:2]
    assert KEEPING.until(versions[0]) == AT + 7 * DAY_MS
    assert Keeping(days=0.5, versions=1).until(versions[0]) == AT + DAY_MS // 2


def test_so_many_of_a_package_and_those_of_others_do_not_count() -> None:
    mine = [version(c * 64, at=AT + i) for i, c in enumerate("abcd")]
    other = version("e" * 64, package="q", at=AT - 1)
    assert KEEPING.surplus([*mine, other], served=(), now=AT) == mine[:2]


def test_what_is_served_stays_and_takes_no_place() -> None:
    mine = [version(c * 64, at=AT + i) for i, c in enumerate("abc")]
    assert KEEPING.surplus(mine, served={mine[0].id}, now=AT) == []
    assert KEEPING.surplus(mine, served={mine[2].id}, now=AT + 99 * DAY_MS) == mine[:2]


@pytest.mark.parametrize("keeping", [Keeping(days=0, versions=2), Keeping(days=7, versions=0)])
def test_nothing_is_kept_when_it_is_off(keeping: Keeping) -> None:
    assert keeping.off
    assert len(keeping.surplus([version(), version("b" * 64)], served=(), now=AT)) == 2


def test_what_an_older_program_kept_has_its_90_days() -> None:
    assert KEEPING.until(version(body=None, size=None)) == AT + 90 * DAY_MS


VERSIONS = [
    version("aaaaaaaa" + "0" * 56, at=AT, revision=3),
    version("aaaaaabb" + "0" * 56, at=AT + 2, revision=7),
    version("1234567c" + "0" * 56, at=AT + 1, revision=1_234_567),
]


@pytest.mark.parametrize(
    ("wanted", "position"),
    [
        ("", 1),
        ("aaaaaaaa", 0),
        ("AAAAAABB", 1),
        ("aaaaaaaa" + "0" * 56, 0),
        ("3", 0),
        ("7", 1),
        ("1234567", 2),
        (" 3 ", 0),
    ],
)
def test_a_version_is_found_by_hash_prefix_revision_or_age(wanted: str, position: int) -> None:
    assert choose(held(NEW), VERSIONS, wanted) is VERSIONS[position]


def test_what_is_current_or_unknown_or_several_is_said() -> None:
    with pytest.raises(InvalidInput, match="fits 2 versions"):
        choose(held(NEW), VERSIONS, "aaaaaa")
    for wanted in (NEW.sha256, NEW.sha256[:6], "4"):
        with pytest.raises(Conflict, match="nothing to restore"):
            choose(held(NEW), VERSIONS, wanted)
    for wanted in ("ffffff", "aaaaa", "5"):
        with pytest.raises(VersionUnknown, match=r"no version .* run `ods package versions` there"):
            choose(held(NEW), VERSIONS, wanted)
    with pytest.raises(VersionUnknown, match="upload the file again"):
        choose(held(NEW), [], "")
    stale = version(NEW.sha256, at=AT + 9)  # a row that a crash left behind for what is current again
    assert choose(held(NEW), [*VERSIONS, stale], "") is VERSIONS[1]
    assert choose(package(NEW, withdrawn=True, **GONE), [stale], NEW.sha256) is stale
