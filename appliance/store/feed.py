"""The id of a change feed: what a reader's position in it is worth after the database was restored or copied.

A position is a sequence number under a feed id. A serving process gives the feed a new id when it starts, and notes
how far the one before went. Whoever restores, imports or copies a database starts a process on it, so two lives of
one node never continue the same feed: a reader whose position lies beyond what this database knows of that id has
read another life of it, and begins again.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

KEPT = 64  #: earlier ids; a reader that has not come for so many starts begins again


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The id of a change feed, and its earlier ids."""

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    earlier: Mapping[str, int] = field(
        default_factory=dict
    )  #: last number under each earlier id, newest first

    def start(self, id: str, since: int) -> int:
        """The number behind which a reader goes on that read up to `since` under a feed id."""
        if id == self.id or since <= self.earlier.get(id, -1):
            return since
        return 0

    def renewed(self, last: int) -> "Feed":
        """The same feed under a new id, now that the last number given is `last`."""
        return Feed(earlier=dict(islice({self.id: last, **self.earlier}.items(), KEPT)))
