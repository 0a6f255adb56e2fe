"""The installers that tests use are what they claim to be: other programs can read them."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.installers import Installers, cpio, library_files, product_archive


def test_a_package_begins_as_a_xar_archive_does(installers: Installers) -> None:
    data = installers.get().path.read_bytes()
    assert data[:8] == b"xar!\x00\x1c\x00\x01"
    assert len(data) > 1024 * 1024
    assert installers.get() is installers.get()
    assert installers.get(version="3.12.1").sha256 != installers.get().sha256


def test_packages_are_reproducible() -> None:
    files = library_files(200_000)
    assert product_archive("X", "1", files) == product_archive("X", "1", files)
    assert product_archive("X", "1", files) != product_archive("X", "2", files)


@pytest.mark.parametrize("program", ["bsdtar", "7z"])
def test_other_programs_read_them(installers: Installers, tmp_path: Path, program: str) -> None:
    found = shutil.which(program) or shutil.which(f"{program}z")  # Debian calls it 7zz
    if found is None:
        skip_or_fail(f"{program} is missing: apt-get install libarchive-tools 7zip")
    package = installers.get().path
    extract = {"bsdtar": ["-xf", str(package)], "7z": ["x", "-txar", "-y", str(package)]}[program]
    subprocess.run([found, *extract], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    if program == "7z":
        names.remove("[TOC].xml")  # it shows the archive's table of contents as a file
    assert names == ["Distribution", "main.pkg/PackageInfo", "main.pkg/Payload", "main.pkg/Scripts"]
    assert b'<product id="org.example.interpreter"' in (tmp_path / "Distribution").read_bytes()
    payload = gzip.decompress((tmp_path / "main.pkg" / "Payload").read_bytes())
    assert payload == cpio(library_files(6 * 1024 * 1024, skip="3.11.7"))
    if program == "bsdtar":
        (tmp_path / "plain.cpio").write_bytes(payload)
        listed = subprocess.run(
            [found, "-tf", "plain.cpio"], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert "./abc.py" in listed.stdout or "./ast.py" in listed.stdout
