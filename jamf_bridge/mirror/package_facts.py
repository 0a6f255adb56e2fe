"""What a package record should say, from a package and the templates of a server."""

import hashlib
from typing import Any

from appliance.domain.package import Package

from ..digests import known_hashes
from ..driver import PackageFacts
from ..servers.config import Mirror
from .file_names import stem, version
from .templates import render, render_line


def package_facts(package: Package, config: Mirror) -> PackageFacts:
    """What a package's record should say.

    Raises:
        InvalidInput: A template cannot be filled in with this package.
    """
    body = package.body
    values: dict[str, Any] = {
        "filename": body.filename,
        "stem": stem(body.filename),
        "version": version(body.filename),
        "size": body.size,
        "sha256": body.sha256,
        "stage": body.stage,
        "tags": list(body.tags),
        "notes": body.notes,
        "metadata": body.metadata,
        "uploaded_by": body.uploaded_by,
    }
    return PackageFacts(
        id=package.id,
        file_name=body.filename,
        size=body.size,
        hashes=known_hashes(package),
        stage=body.stage,
        tags=body.tags,
        notes=body.notes,
        metadata=body.metadata,
        revision=package.revision,
        uploaded_by=body.uploaded_by,
        uploaded_at=body.uploaded_at,
        record_name=render_line(config.name, values),
        record_category=render_line(config.category, values),
        record_notes=render(config.notes, values),
    )


def templates_mark(config: Mirror) -> str:
    """A word that changes when a template does."""
    text = "\0".join((config.name, config.category, config.notes))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
