"""Builds a flat package for the demo from files of the running Python: a real xar archive of a realistic size.

Sources: the xar format as libarchive and Apple's xar read it (https://github.com/apple-oss-distributions/xar: header of
28 bytes, zlib-compressed table of contents, heap that begins with the table's SHA-1) and cpio's "odc" format (POSIX
pax, portable ASCII). There is no bill of materials in it, so it is to be looked at and moved around, not installed.
"""

import gzip
import hashlib
import os
import struct
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape, quoteattr

_ODC_MAX = 0o77777777777  #: bytes of a file that odc can express
_BLOCK = 1024 * 1024


def build_flat_package(path: Path, *, size: int, name: str, version: str) -> None:
    """Write a flat package of about `size` bytes.

    Args:
        path: Where to.
        size: Bytes of the payload, more or less one file.
        name: What it installs, for its Distribution.
        version: Of that.

    Raises:
        OSError: It cannot be written.
    """
    identifier = "org.opendistributionserver.demo"
    payload = path.with_name(f"{path.name}.payload")
    try:
        count, installed = _write_payload(payload, size)
        reference = f'<pkg-ref id="{identifier}"'
        kilobytes = f'installKBytes="{installed // 1024}"'
        distribution = (
            '<?xml version="1.0" encoding="utf-8"?>\n<installer-gui-script minSpecVersion="2">\n'
            f"  <title>{escape(name)}</title>\n"
            '  <choices-outline><line choice="default"/></choices-outline>\n'
            f'  <choice id="default" title={quoteattr(name)}>{reference}/></choice>\n'
            f"  {reference} version={quoteattr(version)} {kilobytes}>#demo.pkg</pkg-ref>\n"
            "</installer-gui-script>\n"
        ).encode()
        info = (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<pkg-info format-version="2" identifier="{identifier}" version={quoteattr(version)} '
            'install-location="/usr/local/ods-demo" auth="root">\n'
            f'  <payload numberOfFiles="{count}" {kilobytes}/>\n</pkg-info>\n'
        ).encode()
        with path.open("wb") as out, payload.open("rb") as stream:
            _write_xar(out, distribution, info, stream)
    finally:
        payload.unlink(missing_ok=True)


def _write_payload(path: Path, size: int) -> tuple[int, int]:
    """A gzip-compressed cpio archive; returns how many files and bytes it has."""
    count = installed = 0
    # Stored, not deflated: a demo should not wait for compression, and installers are incompressible anyway.
    with gzip.GzipFile(path, "wb", compresslevel=0, mtime=0) as archive:
        for number, (inside, source) in enumerate(_endless_files()):
            if installed >= size:
                break
            try:
                data = source.read_bytes()
            except OSError:
                continue
            if not data or len(data) > _ODC_MAX:
                continue
            archive.write(_cpio_header(inside, number % 0o777777 + 1, len(data)))
            archive.write(data)
            count += 1
            installed += len(data)
        archive.write(_cpio_header("TRAILER!!!", 0, 0, mode=0))
    return count, installed


def _endless_files() -> Iterator[tuple[str, Path]]:
    """The files of this Python, again and again under another directory."""
    roots = dict.fromkeys(Path(sysconfig.get_path(key)) for key in ("stdlib", "platlib"))
    for turn in range(10_000):
        for root in roots:
            for directory, names, files in os.walk(root):
                names.sort()
                for file in sorted(files):
                    source = Path(directory) / file
                    yield f"./{turn}/{source.relative_to(root).as_posix()}", source


def _cpio_header(name: str, inode: int, size: int, mode: int = 0o100644) -> bytes:
    encoded = name.encode("utf-8", "replace") + b"\0"
    fields = f"{0:06o}{inode:06o}{mode:06o}{0:06o}{0:06o}{1:06o}{0:06o}{0:011o}{len(encoded):06o}{size:011o}"
    return b"070707" + fields.encode("ascii") + encoded


def _write_xar(out: IO[bytes], distribution: bytes, info: bytes, payload: IO[bytes]) -> None:
    payload_digest, payload_size = _sha1_of(payload)
    offset = 20  # behind the checksum of the table
    entries = []
    for id, file, length, digest in (
        (1, "Distribution", len(distribution), hashlib.sha1(distribution, usedforsecurity=False).hexdigest()),
        (3, "PackageInfo", len(info), hashlib.sha1(info, usedforsecurity=False).hexdigest()),
        (4, "Payload", payload_size, payload_digest),
    ):
        entries.append(
            f'<file id="{id}"><name>{file}</name><type>file</type><mode>0644</mode><data>'
            f"<length>{length}</length><size>{length}</size><offset>{offset}</offset>"
            '<encoding style="application/octet-stream"/>'
            f'<archived-checksum style="sha1">{digest}</archived-checksum>'
            f'<extracted-checksum style="sha1">{digest}</extracted-checksum></data></file>'
        )
        offset += length
    table = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<xar><toc>'
        '<checksum style="sha1"><offset>0</offset><size>20</size></checksum>'
        f"{entries[0]}"
        f'<file id="2"><name>demo.pkg</name><type>directory</type><mode>0755</mode>{entries[1]}{entries[2]}</file>'
        "</toc></xar>\n"
    ).encode()
    packed = zlib.compress(table)
    out.write(struct.pack(">4sHHQQI", b"xar!", 28, 1, len(packed), len(table), 1))
    out.write(packed)
    out.write(hashlib.sha1(packed, usedforsecurity=False).digest())
    out.write(distribution)
    out.write(info)
    payload.seek(0)
    while block := payload.read(_BLOCK):
        out.write(block)


def _sha1_of(file: IO[bytes]) -> tuple[str, int]:
    digest = hashlib.sha1(usedforsecurity=False)
    size = 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size
