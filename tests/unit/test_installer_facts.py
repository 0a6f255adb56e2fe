"""What is installed is read from a flat package; anything else, and anything hostile, says nothing."""

import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.service.installer_facts import MAX_XML, installer_facts
from tests.installers import Installers, product_archive, xar

PACKAGE_INFO = b'<pkg-info identifier="org.example.tool" version="1.2.3"/>'
SUITE = """<?xml version="1.0" encoding="utf-8"?>
<installer-gui-script>
  <pkg-ref id="org.example.helper"/>
  <pkg-ref id="org.example.helper" version="9" installKBytes="10">#helper.pkg</pkg-ref>
  <pkg-ref id="org.example.großes" version="16.93 (β)" installKBytes="2000">#big.pkg</pkg-ref>
</installer-gui-script>""".encode()


def facts(path: Path, data: bytes) -> dict[str, str]:
    path.write_bytes(data)
    return installer_facts(path)


def table(text: str, *, heap: bytes = b"") -> bytes:
    packed = zlib.compress(text.encode())
    return struct.pack(">4sHHQQI", b"xar!", 28, 1, len(packed), len(text), 0) + packed + heap


def entry(offset: object, length: object, style: str = "application/octet-stream") -> str:
    return (
        f"<xar><toc><file><name>PackageInfo</name><data><offset>{offset}</offset><length>{length}</length>"
        f'<encoding style="{style}"/></data></file></toc></xar>'
    )


def test_a_product_archive(installers: Installers) -> None:
    assert installer_facts(installers.get().path) == {
        "identifier": "org.example.interpreter",
        "version": "3.11.7",
    }


def test_a_component_and_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "x.pkg"
    tool = {"identifier": "org.example.tool", "version": "1.2.3"}
    assert facts(path, xar({"PackageInfo": PACKAGE_INFO, "Payload": b"..."})) == tool
    big = {"identifier": "org.example.großes", "version": "16.93 (β)"}
    assert facts(path, xar({"Distribution": SUITE, "a.pkg": {"PackageInfo": PACKAGE_INFO}})) == big
    bare = b"<installer-gui-script/>"
    assert facts(path, xar({"Distribution": bare, "a.pkg": {"PackageInfo": PACKAGE_INFO}})) == tool
    assert facts(path, xar({"PackageInfo": b'<pkg-info identifier="only"/>'})) == {"identifier": "only"}


def test_an_archive_of_another_program(tmp_path: Path, need: Callable[[str], str]) -> None:
    bsdtar = shutil.which("bsdtar") or need("bsdtar")
    (tmp_path / "PackageInfo").write_bytes(PACKAGE_INFO)
    for compression in ("gzip", "bzip2", "none"):
        command = [
            bsdtar,
            "--format",
            "xar",
            "--options",
            f"compression={compression}",
            "-cf",
            "x.pkg",
            "PackageInfo",
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
        found = installer_facts(tmp_path / "x.pkg")
        assert found == {"identifier": "org.example.tool", "version": "1.2.3"}, compression


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"xar!",
        b"koly" * 100,
        struct.pack(">4sHHQQI", b"xar!", 28, 1, 2**63, 1, 0),
        table("<xar>"),
        table("x" * (MAX_XML + 1)),
        table('<!DOCTYPE a [<!ENTITY b "c">]><xar/>'),
        table("<xar/>".encode("utf-16").decode("latin-1")),
        table(entry(-5, 10)),
        table(entry(0, MAX_XML + 1)),
        table(entry("many", "more")),
        table(entry(0, 57)),
        table(entry(0, 57, "application/x-gzip"), heap=PACKAGE_INFO),
        table(entry(0, 57, "application/x-bzip2"), heap=PACKAGE_INFO),
        table(entry(0, 2000, "application/x-gzip"), heap=zlib.compress(bytes(MAX_XML + 1))),
        table("<a>" * 100_000 + "</a>" * 100_000),
        xar({"PackageInfo": b'<pkg-info identifier="' + b"x" * 256 + b'" version="a&#10;b"/>'}),
        xar({"Distribution": b'<d><pkg-ref id="x" installKBytes="9"/></d>'}),
    ],
)
def test_everything_else_says_nothing(data: bytes, tmp_path: Path) -> None:
    assert facts(tmp_path / "x", data) == {}


def test_what_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert installer_facts(tmp_path / "none") == {}
    assert installer_facts(tmp_path) == {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_broken_archives_raise_nothing(tmp_path: Path, chance: random.Random) -> None:
    data = bytearray(product_archive("Thing", "1", {"a.py": b"pass"}))
    for _ in range(chance.randrange(1, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    assert set(facts(tmp_path / "x.pkg", bytes(data[: chance.randrange(len(data))]))) <= {
        "identifier",
        "version",
    }
