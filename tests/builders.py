"""Small makers of domain values and files, so that a test names only what it is about."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.domain.package import PackageBody

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file and what it hashes to."""

    path: Path
    size: int
    sha1: str
    sha256: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name


def make_file(path: Path, size: int, seed: int | str = 0) -> File:
    """Write a file of incompressible bytes that follow from `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(f"{seed}:{size}")
    with path.open("wb") as file:
        for start in range(0, size, 16 * MIB):
            file.write(source.randbytes(min(16 * MIB, size - start)))
    return look_at(path)


def look_at(path: Path) -> File:
    """A file that is there."""
    with path.open("rb") as file:
        sha1 = hashlib.file_digest(file, "sha1").hexdigest()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return File(path=path, size=path.stat().st_size, sha1=sha1, sha256=sha256)


def manifest_of(data: bytes) -> Manifest:
    """The manifest of some bytes, made the slow and plain way."""
    chunks = b"".join(
        hashlib.sha1(data[start : start + CHUNK_SIZE]).digest() for start in range(0, len(data), CHUNK_SIZE)
    )
    return Manifest(
        size=len(data),
        sha1=hashlib.sha1(data).hexdigest(),
        sha256=hashlib.sha256(data).hexdigest(),
        chunks=chunks,
    )


def package_body(filename: str = "Thing-1.0.pkg", data: bytes = b"thing", **changes: object) -> PackageBody:
    """The body of a package record."""
    manifest = manifest_of(data)
    fields: dict[str, object] = {
        "filename": filename,
        "size": manifest.size,
        "sha1": manifest.sha1,
        "sha256": manifest.sha256,
        "manifest": manifest.digest,
        "stage": "prod",
    }
    return PackageBody(**{**fields, **changes})  # type: ignore[arg-type]
