"""Flat packages (.pkg) for tests: real xar archives with real files in them. `tests/README.md` says where from.

Built without any tool, so it works everywhere; `test_installers` reads them back with bsdtar. Formats: xar as
libarchive reads and Apple's xar writes it (header of 28 bytes, zlib-compressed table of contents, heap that begins
with the table's SHA-1), cpio's "odc" form (POSIX pax), product archives as productbuild lays them out:
Distribution beside one component directory with PackageInfo, Payload and Scripts.
"""

import gzip
import hashlib
import io
import stat
import struct
import sysconfig
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from .builders import File, look_at

_PREINSTALL = b"#!/bin/sh\n# Nothing to prepare.\nexit 0\n"


class Installers:
    """Builds each kind of package once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._built: dict[str, File] = {}

    def get(
        self, name: str = "Interpreter", version: str = "3.11.7", *, payload: int = 6 * 1024 * 1024
    ) -> File:
        """A product archive that would install about `payload` bytes of this Python's library."""
        filename = f"{name}-{version}.pkg"
        if filename not in self._built:
            path = self._directory / filename
            path.write_bytes(product_archive(name, version, library_files(payload, skip=version)))
            self._built[filename] = look_at(path)
        return self._built[filename]


def library_files(limit: int, *, skip: str = "") -> dict[str, bytes]:
    """Real files: modules of the running Python, about `limit` bytes of them.

    Args:
        limit: Bytes.
        skip: Another word gives other files, as another version of a product has.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files: dict[str, bytes] = {}
    total, start = 0, sum(skip.encode()) % 40
    for number, path in enumerate(_modules(root)):
        if number < start:
            continue
        if total >= limit:
            break
        data = path.read_bytes()
        files[path.relative_to(root).as_posix()] = data
        total += len(data)
    return files


def _modules(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and path.is_file():
            yield path


def product_archive(name: str, version: str, files: Mapping[str, bytes]) -> bytes:
    """A flat package that installs `files` below /Library/<name>."""
    identifier = f"org.example.{name.lower()}"
    kilobytes = sum(map(len, files.values())) // 1024
    distribution = f"""<?xml version="1.0" encoding="utf-8"?>
<installer-gui-script minSpecVersion="2">
    <title>{escape(name)}</title>
    <options customize="never" require-scripts="false" hostArchitectures="x86_64,arm64"/>
    <product id={quoteattr(identifier)} version={quoteattr(version)}/>
    <choices-outline><line choice="default"/></choices-outline>
    <choice id="default" title={quoteattr(name)}><pkg-ref id={quoteattr(identifier)}/></choice>
    <pkg-ref id={quoteattr(identifier)} version={quoteattr(version)} installKBytes="{kilobytes}">#main.pkg</pkg-ref>
</installer-gui-script>
"""
    info = f"""<?xml version="1.0" encoding="utf-8"?>
<pkg-info format-version="2" identifier={quoteattr(identifier)} version={quoteattr(version)}
          install-location="/Library/{escape(name)}" auth="root">
    <payload numberOfFiles="{len(files)}" installKBytes="{kilobytes}"/>
    <scripts><preinstall file="./preinstall"/></scripts>
</pkg-info>
"""
    return xar(
        {
            "Distribution": distribution.encode(),
            "main.pkg": {
                "PackageInfo": info.encode(),
                "Payload": gzip.compress(cpio(files), 6, mtime=0),
                "Scripts": gzip.compress(cpio({"preinstall": _PREINSTALL}, mode=0o755), 6, mtime=0),
            },
        }
    )


def cpio(files: Mapping[str, bytes], mode: int = 0o644) -> bytes:
    """A cpio archive in the portable "odc" form."""
    out = io.BytesIO()
    for number, (name, data) in enumerate(files.items(), 1):
        out.write(_cpio_header(f"./{name}", number, stat.S_IFREG | mode, len(data)))
        out.write(data)
    out.write(_cpio_header("TRAILER!!!", 0, 0, 0))
    return out.getvalue()


def _cpio_header(name: str, inode: int, mode: int, size: int) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = f"{0:06o}{inode:06o}{mode:06o}{0:06o}{0:06o}{1:06o}{0:06o}{0:011o}{len(encoded):06o}{size:011o}"
    return b"070707" + numbers.encode() + encoded


Tree = Mapping[str, "bytes | Tree"]


def xar(tree: Tree) -> bytes:
    """A xar archive of files and directories."""
    heap = io.BytesIO(bytes(20))  # the table's checksum goes there
    heap.seek(0, io.SEEK_END)
    entries, _ = _entries(tree, heap, 1)
    table = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<xar>\n <toc>\n'
        '  <checksum style="sha1"><offset>0</offset><size>20</size></checksum>\n'
        f"{entries} </toc>\n</xar>\n"
    ).encode()
    packed = zlib.compress(table)
    data = heap.getvalue()
    header = struct.pack(">4sHHQQI", b"xar!", 28, 1, len(packed), len(table), 1)
    return header + packed + hashlib.sha1(packed).digest() + data[20:]


def _entries(tree: Tree, heap: io.BytesIO, number: int) -> tuple[str, int]:
    text = ""
    for name, content in tree.items():
        own = number
        number += 1
        head = f'<file id="{own}"><name>{escape(name)}</name>'
        if isinstance(content, bytes):
            # A Payload is compressed already; small files are stored with zlib, which xar calls gzip.
            plain = content[:2] == b"\x1f\x8b"
            stored = content if plain else zlib.compress(content)
            style = "application/octet-stream" if plain else "application/x-gzip"
            text += (
                f"{head}<type>file</type><mode>0644</mode><data>"
                f"<length>{len(stored)}</length><size>{len(content)}</size><offset>{heap.tell()}</offset>"
                f'<encoding style="{style}"/>'
                f'<archived-checksum style="sha1">{hashlib.sha1(stored).hexdigest()}</archived-checksum>'
                f'<extracted-checksum style="sha1">{hashlib.sha1(content).hexdigest()}</extracted-checksum>'
                "</data></file>\n"
            )
            heap.write(stored)
        else:
            inner, number = _entries(content, heap, number)
            text += f"{head}<type>directory</type><mode>0755</mode>{inner}</file>\n"
    return text, number
