"""Blobs and their public names: complete, readable, and as the store says."""

import errno
import hashlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from appliance.domain.errors import BlobMissing, StorageError, StorageFull
from appliance.service.blob_check import look, verify
from appliance.store import blobs as module
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout


@pytest.fixture(params=["0", "1"], ids=["fast", "portable"])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    monkeypatch.setenv("ODS_PORTABLE", request.param)
    return BlobStore(Layout(tmp_path), floor_bytes=1000, free=lambda _: 10_000)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def put(store: BlobStore, layout: Layout, data: bytes, *, keep: bool = False) -> str:
    path = layout.upload("u" * 32)
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    store.commit(path, sha256, keep=keep)
    return sha256


def test_all_paths_lie_below_the_root(layout: Layout) -> None:
    paths = [layout.blob("ab" * 32), layout.partial("t"), layout.chunk_map("t"), layout.upload("u")]
    assert all(path.is_relative_to(layout.root) for path in [*paths, *layout.directories()])
    assert layout.blob("ab" * 32).parent.name == "ab"
    assert len({*paths}) == len(paths)


def test_the_floor_is_kept(store: BlobStore) -> None:
    store.check_space(9000)
    with pytest.raises(StorageFull) as caught:
        store.check_space(9001)
    assert caught.value.details == {"needed": 9001, "free": 10_000, "floor": 1000}


def test_a_committed_file_is_the_blob(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"one")
    assert store.exists(sha256, 3)
    assert not store.exists(sha256, 4)
    assert store.path(sha256).read_bytes() == b"one"
    assert not layout.upload("u" * 32).exists()
    put(store, layout, b"one")  # a second copy is dropped
    assert not layout.upload("u" * 32).exists()


def test_a_damaged_blob_of_another_size_is_replaced(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"whole")
    store.path(sha256).write_bytes(b"half")
    put(store, layout, b"whole")
    assert store.path(sha256).read_bytes() == b"whole"


def test_an_upload_can_keep_its_bytes_without_a_second_copy(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"kept", keep=True)
    upload = layout.upload("u" * 32)
    assert store.path(sha256).read_bytes() == b"kept"
    if upload.exists():
        assert os.path.samefile(upload, store.path(sha256))
    else:
        assert os.environ["ODS_PORTABLE"] == "1"
    assert len(list(store.path(sha256).parent.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_web_server_may_read_what_is_public(store: BlobStore, layout: Layout) -> None:
    before = os.umask(0o077)
    try:
        store.publish(put(store, layout, b"public"), "a.pkg")
    finally:
        os.umask(before)
    assert stat.S_IMODE((layout.packages / "a.pkg").stat().st_mode) == 0o644
    for directory in (layout.public, layout.packages):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert not stat.S_IMODE(layout.blobs.stat().st_mode) & stat.S_IRWXO
    layout.packages.chmod(0o750)  # an administrator's wish
    BlobStore(layout, floor_bytes=0)
    assert stat.S_IMODE(layout.packages.stat().st_mode) == 0o750


def test_a_public_name_changes_in_one_step(
    store: BlobStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = put(store, layout, b"old" * 100), put(store, layout, b"new" * 100)
    target = layout.packages / "a.pkg"
    store.publish(old, "a.pkg")
    seen = []
    real = module.move

    def watched(source: Path, destination: Path) -> None:
        seen.append((target.read_bytes(), source.read_bytes()))
        real(source, destination)

    monkeypatch.setattr(module, "move", watched)
    store.publish(new, "a.pkg")
    assert seen == [(b"old" * 100, b"new" * 100)]
    assert target.read_bytes() == b"new" * 100
    store.publish(new, "a.pkg")
    assert [path.name for path in layout.packages.iterdir()] == ["a.pkg"]
    store.unpublish("a.pkg")
    store.unpublish("a.pkg")
    assert list(layout.packages.iterdir()) == []
    assert store.exists(new, 300)


def test_a_blob_that_is_not_there_cannot_be_published(store: BlobStore, layout: Layout) -> None:
    with pytest.raises(BlobMissing):
        store.publish("0" * 64, "a.pkg")
    assert list(layout.packages.iterdir()) == []


def test_a_deletion_can_be_cancelled_until_it_is_finished(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"data")
    away = store.begin_delete(sha256)
    assert away is not None
    assert not store.exists(sha256, 4)
    assert store.begin_delete(sha256) is None, "there is none any more"
    store.cancel_delete(away)
    assert store.exists(sha256, 4)
    away = store.begin_delete(sha256)
    assert away is not None
    assert put(store, layout, b"data") == sha256  # the same bytes come again meanwhile
    store.finish_delete(away)
    store.finish_delete(away)
    assert store.exists(sha256, 4), "only what was there before is deleted"


def test_a_blob_that_was_deleted_while_it_was_published_gets_its_name_back(
    store: BlobStore, layout: Layout
) -> None:
    sha256 = put(store, layout, b"data")
    store.publish(sha256, "a.pkg")
    away = store.begin_delete(sha256)
    assert away is not None
    store.finish_delete(away)
    store.ensure(sha256, "a.pkg")
    assert store.path(sha256).read_bytes() == b"data"
    store.ensure(sha256, "a.pkg")
    store.ensure("0" * 64, "none.pkg")
    assert [path.name for path in layout.blobs.rglob("*") if path.is_file()] == [sha256]


def test_room_is_made_before_anything_is_refused(tmp_path: Path) -> None:
    free = [10]
    store = BlobStore(Layout(tmp_path), floor_bytes=2, free=lambda _: free[0])
    asked: list[int] = []

    def make_room(needed: int) -> None:
        asked.append(needed)
        free[0] += 5

    store.make_room = make_room
    store.check_space(8)
    assert asked == []
    store.check_space(13)
    assert asked == [13]
    with pytest.raises(StorageFull):
        store.check_space(100)


def test_quarantine_takes_the_blob_away(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"bad")
    store.quarantine(sha256)
    store.quarantine(sha256)
    assert not store.exists(sha256, 3)
    assert (layout.quarantine / sha256).read_bytes() == b"bad"


def test_cleaning_leaves_exactly_what_the_store_says(store: BlobStore, layout: Layout) -> None:
    held, other, orphan = (put(store, layout, data) for data in (b"held", b"other", b"orphan"))
    store.publish(held, "wrong.pkg")
    store.publish(orphan, "orphan.pkg")
    (layout.packages / ".linking-1").write_bytes(b"half")
    (layout.packages / "shown.pkg").write_bytes(b"x")
    for name in ("t1", "t1.map", "t2", "t2.map"):
        (layout.partials / name).write_bytes(b"")
    for name in ("u1", "u2"):
        layout.upload(name).write_bytes(b"")
    store.adopt_or_clean(
        believed=True,
        names={"shown.pkg": held, "missing.pkg": other},
        blobs={held, other},
        partials={"t1"},
        uploads={"u2"},
    )
    assert {path.name: path.read_bytes() for path in layout.packages.iterdir()} == {
        "shown.pkg": b"held",
        "missing.pkg": b"other",
    }
    assert {path.name for path in layout.blobs.rglob("*") if path.is_file()} == {held, other, orphan}, (
        "the database may be older than the orphan"
    )
    assert {path.name for path in layout.partials.iterdir()} == {"t1", "t1.map"}
    assert {path.name for path in layout.uploads.iterdir()} == {"u2"}


@pytest.mark.parametrize("newer", [b"newer", b"other"])
def test_a_name_that_was_taken_away_or_given_to_others_is_left(
    store: BlobStore, layout: Layout, newer: bytes
) -> None:
    """Another process withdrew or replaced the package after the store said that it is held."""
    sha256 = put(store, layout, b"bytes")
    store.publish(put(store, layout, newer), "replaced.pkg")
    for name in ("withdrawn.pkg", "replaced.pkg"):
        store.ensure(sha256, name)
    assert {path.name: path.read_bytes() for path in layout.packages.iterdir()} == {"replaced.pkg": newer}


def test_what_another_process_made_meanwhile_stays(store: BlobStore, layout: Layout) -> None:
    """A worker fetches while the serving process starts, whose view of the database is a little older."""
    since = time.time()
    time.sleep(0.05)
    sha256 = put(store, layout, b"fetched")
    store.publish(sha256, "fetched.pkg")
    made = [layout.partials / "t", layout.partials / "t.map", layout.upload("u")]
    made += [layout.packages / ".linking-1", store.path(sha256).with_name(".linking-2")]
    for path in made:
        path.write_bytes(b"")
    made.append(layout.packages / "fetched.pkg")
    store.adopt_or_clean(believed=True, names={}, blobs=set(), partials=set(), uploads=set(), since=since)
    assert all(path.exists() for path in made)
    store.adopt_or_clean(
        believed=True, names={}, blobs=set(), partials=set(), uploads=set(), since=time.time() + 1
    )
    assert not any(path.exists() for path in made)


def test_a_database_that_knows_nothing_deletes_nothing(
    store: BlobStore, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = put(store, layout, b"all that there is")
    store.publish(sha256, "a.pkg")
    layout.upload("u").write_bytes(b"")
    store.adopt_or_clean(believed=False, names={}, blobs=set(), partials=set(), uploads=set())
    assert store.exists(sha256, 17)
    assert (layout.packages / "a.pkg").exists()
    assert "left alone" in caplog.text


def test_names_in_another_unicode_form_are_the_same_names(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"bytes")
    (layout.packages / "Cafe\u0301.pkg").write_bytes(b"bytes")  # as HFS+ gives it back
    store.adopt_or_clean(
        believed=True, names={"Caf\u00e9.pkg": sha256}, blobs={sha256}, partials=set(), uploads=set()
    )
    assert (layout.packages / "Cafe\u0301.pkg").exists()


def test_a_copy_stands_for_a_blob_only_where_there_are_no_links(
    store: BlobStore, layout: Layout, request: pytest.FixtureRequest
) -> None:
    sha256 = put(store, layout, b"bytes")
    public = layout.packages / "copied.pkg"
    public.write_bytes(b"bytes")
    has_links = "fast" in request.node.name
    assert store.shows(sha256, public.name) is not has_links, "what is written to it later goes unnoticed"
    store.restore_links({public.name: sha256}, missing_only=False)
    assert public.samefile(store.path(sha256)) is has_links
    assert store.shows(sha256, public.name)
    assert list(layout.packages.iterdir()) == [public]
    assert [path.name for path in layout.blobs.rglob("*") if path.is_file()] == [sha256]


def test_a_blob_is_not_deleted_before_whoever_committed_it_has_looked(
    store: BlobStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = put(store, layout, b"x")
    real, others = module.move, []

    def move(source: Path, target: Path) -> None:
        real(source, target)
        others.append(threading.Thread(target=lambda: store.begin_delete(sha256)))
        others[0].start()
        others[0].join(0.2)

    monkeypatch.setattr(module, "move", move)
    path = layout.upload("1" * 32)
    path.write_bytes(b"x")
    assert store.commit(path, sha256).replaced
    others[0].join()


def test_a_blob_that_is_deleted_while_it_is_published_is_missing(
    store: BlobStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = put(store, layout, b"x")
    real = module.link_or_copy

    def late(source: Path, target: Path) -> None:
        source.unlink()
        real(source, target)

    monkeypatch.setattr(module, "link_or_copy", late)
    with pytest.raises(BlobMissing):
        store.publish(sha256, "a.pkg")
    assert list(layout.packages.iterdir()) == []


@pytest.fixture
def untouchable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files that nobody may delete or move, as with `chattr +i`."""
    names: set[str] = set()
    unlink, replace = Path.unlink, os.replace

    def refuse(*paths: os.PathLike[str] | str) -> None:
        if any(os.path.basename(path) in names for path in paths):
            raise PermissionError(errno.EPERM, "Operation not permitted")

    def may_unlink(path: Path, missing_ok: bool = False) -> None:
        refuse(path)
        unlink(path, missing_ok=missing_ok)

    def may_replace(source: Path, target: Path) -> None:
        refuse(source, target)
        replace(source, target)

    monkeypatch.setattr(Path, "unlink", may_unlink)
    monkeypatch.setattr(os, "replace", may_replace)
    return names


def test_what_cannot_be_touched_is_left_and_counted(
    store: BlobStore, layout: Layout, untouchable: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    held, other, kept = (put(store, layout, data) for data in (b"held", b"other", b"kept"))
    away = store.begin_delete(kept)
    assert away is not None
    store.publish(held, "gone.pkg")
    for path in (layout.partials / "t1", layout.upload("u1"), layout.packages / "shown.pkg"):
        path.write_bytes(b"x")
    for name in ("t2", "u2"):
        (layout.partials / name).write_bytes(b"")
    untouchable |= {"gone.pkg", away.name, "t1", "u1", "shown.pkg"}

    def clean() -> None:
        store.adopt_or_clean(
            believed=True,
            names={"shown.pkg": held, "missing.pkg": other},
            blobs={held, other, kept},
            partials=set(),
            uploads=set(),
        )

    clean()
    assert away.read_bytes() == b"kept", "what is to be kept is not taken for a leftover"
    assert (layout.packages / "missing.pkg").read_bytes() == b"other", "one keeps no other from it"
    assert {path.name for path in layout.partials.iterdir()} == {"t1"}
    assert store.stuck() == 4
    assert "cannot be deleted or moved" in caplog.text
    untouchable.add(held)
    with pytest.raises(StorageError):
        store.quarantine(held)
    assert not store.sweep(held, -1)
    store.sweep_name("gone.pkg", -1)
    store.drop(layout.upload("u1"))
    assert store.stuck() == 5
    untouchable.clear()
    clean()
    assert (layout.packages / "shown.pkg").read_bytes() == b"held"
    assert store.exists(kept, 4)
    assert store.sweep(held, -1)
    assert store.stuck() == 0


def test_a_file_that_is_missing_with_its_folder_says_nothing(store: BlobStore, layout: Layout) -> None:
    sha256 = put(store, layout, b"away")
    layout.blobs.rename(layout.root / "elsewhere")
    for found in (lambda: look(store, sha256, 4), lambda: verify(store, sha256)):
        with pytest.raises(StorageError, match="blobs is missing"):
            found()
    layout.blobs.mkdir()
    assert look(store, sha256, 4).missing
    assert verify(store, sha256).missing
