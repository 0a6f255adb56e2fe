"""Where everything is, below the data directory. Pure paths; nothing here touches the disk.

<data>/
  ods.sqlite3             the embedded database, if no other is configured
  identity/node.key       the node's private key
  identity/secrets.key    encrypts secrets in the database
  identity/database       says that the node has a database, so that a lost one is not begun anew by itself
  identity/tls.crt, .key  the certificate that the node made for itself, on request
  blobs/<2 hex>/<sha256>  the bytes of packages, immutable, named by what they are
  public/Packages/<name>  hard links to blobs: what web servers may serve
  partial/<transfer>      a file being fetched, preallocated; <transfer>.map: which chunks are in
  uploads/<upload>        a file being uploaded
  quarantine/<sha256>     damaged files, set aside for people to look at
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one node."""

    root: Path

    @property
    def identity(self) -> Path:
        """The directory of keys and certificates."""
        return self.root / "identity"

    @property
    def blobs(self) -> Path:
        """The directory of all blobs."""
        return self.root / "blobs"

    @property
    def public(self) -> Path:
        """The directory that holds `Packages/`: the root for a web server."""
        return self.root / "public"

    @property
    def packages(self) -> Path:
        """The directory of the public links."""
        return self.public / "Packages"

    @property
    def partials(self) -> Path:
        """The directory of files being fetched."""
        return self.root / "partial"

    @property
    def uploads(self) -> Path:
        """The directory of files being uploaded."""
        return self.root / "uploads"

    @property
    def quarantine(self) -> Path:
        """The directory of damaged files."""
        return self.root / "quarantine"

    def blob(self, sha256: str) -> Path:
        """Where the bytes with this hash are."""
        return self.blobs / sha256[:2] / sha256

    def partial(self, transfer: str) -> Path:
        """Where a transfer writes."""
        return self.partials / transfer

    def chunk_map(self, transfer: str) -> Path:
        """Where a transfer notes which chunks are in."""
        return self.partials / f"{transfer}.map"

    def upload(self, id: str) -> Path:
        """Where an upload writes."""
        return self.uploads / id

    def damaged(self, sha256: str) -> Path:
        """Where a blob is set aside when its bytes turn out to be others."""
        return self.quarantine / sha256

    def directories(self) -> tuple[Path, ...]:
        """All directories that a node needs."""
        return (self.identity, self.blobs, self.packages, self.partials, self.uploads, self.quarantine)
