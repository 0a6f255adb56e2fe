"""What a flat package says of itself: the identifier and version of what it installs.

A flat package is a xar archive: a header of 28 bytes, a compressed table of contents in XML, and a heap of files
(https://github.com/apple-oss-distributions/xar). Its `Distribution` or `PackageInfo` names what it installs.
Everything is bounded: the bytes come from outside, and all that they can give is two words.
"""

import bz2
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

MAX_XML = 1024 * 1024  #: bytes of a document, compressed or not
MAX_WORD = 255  #: characters
_MOST = 50  #: so many components are looked at
_HEADER = struct.Struct(">4sHHQ")  #: magic, size of the header, version, size of the compressed table


def installer_facts(path: Path) -> dict[str, str]:
    """The `identifier` and `version` of what a flat package installs, as far as it names them.

    Args:
        path: A file of any kind.

    Returns:
        Empty for anything but a flat package, and for one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _facts(file)
    except (OSError, EOFError, ValueError, struct.error, zlib.error, ElementTree.ParseError):
        return {}


def with_installer(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A package's metadata with what its file says of itself under `installer`, in place of what an older file said."""
    found = installer_facts(path)
    return replace_installer(metadata, {"installer": found} if found else {})


def replace_installer(metadata: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """A package's metadata with the `installer` of newer metadata, or without one if that has none."""
    others = {name: value for name, value in metadata.items() if name != "installer"}
    return {**others, "installer": newer["installer"]} if "installer" in newer else others


def _facts(file: BinaryIO) -> dict[str, str]:
    magic, header, _, size = _HEADER.unpack(file.read(_HEADER.size))
    if magic != b"xar!" or size > MAX_XML:
        return {}
    file.seek(header)
    table = _tree(_bounded(zlib.decompressobj().decompress(file.read(size), MAX_XML + 1)))
    files = [
        entry for entry in table.iter("file") if entry.findtext("name") in {"Distribution", "PackageInfo"}
    ]
    for entry in sorted(files, key=lambda entry: entry.findtext("name", ""))[:_MOST]:
        found = _named(_tree(_content(file, header + size, entry)))
        if found:
            return found
    return {}


def _content(file: BinaryIO, heap: int, entry: ElementTree.Element) -> bytes:
    """The bytes of a document in the archive."""
    offset, length = (int(entry.findtext(f"data/{name}", "-1")) for name in ("offset", "length"))
    if offset < 0 or not 0 <= length <= MAX_XML:
        raise ValueError("it lies outside of the archive or is too large")
    file.seek(heap + offset)
    data = file.read(length)
    encoding = entry.find("data/encoding")
    style = encoding.get("style") if encoding is not None else "application/octet-stream"
    if style == "application/x-gzip":
        data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, MAX_XML + 1)
    elif style == "application/x-bzip2":
        data = bz2.BZ2Decompressor().decompress(data, MAX_XML + 1)
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_XML:
        raise ValueError("the document is too large")
    return data


def _tree(data: bytes) -> ElementTree.Element:
    text = data.decode("utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("documents of these kinds have no document type")
    return ElementTree.fromstring(text)  # noqa: S314  # without a document type there are no entities


def _named(document: ElementTree.Element) -> dict[str, str]:
    """What a `Distribution` calls its product, or else its largest component; what a `PackageInfo` calls itself."""
    if document.tag == "pkg-info":
        return _words(document.get("identifier"), document.get("version"))
    product = document.find("product")
    if product is not None and product.get("id"):
        return _words(product.get("id"), product.get("version"))
    components = [one for one in document.iter("pkg-ref") if one.get("id") and one.get("version")]
    largest = max(components, key=_kilobytes, default=None)
    return _words(largest.get("id"), largest.get("version")) if largest is not None else {}


def _kilobytes(component: ElementTree.Element) -> int:
    text = component.get("installKBytes", "")
    return int(text) if text.isdecimal() and len(text) < MAX_WORD else 0


def _words(identifier: str | None, version: str | None) -> dict[str, str]:
    words = {"identifier": identifier or "", "version": version or ""}
    return {name: word for name, word in words.items() if 0 < len(word) <= MAX_WORD and word.isprintable()}
