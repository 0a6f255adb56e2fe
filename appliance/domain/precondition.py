"""Preconditions of a change: what a caller insists on (RFC 9110, 13). No header is read here.

A thing has *versions*: the words that an entity tag may name it by, such as its revision and the SHA-256 of its bytes.
What follows a dot in a tag is about one representation, not about the thing, and is not compared.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .errors import PreconditionFailed

ANY = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """What has to be so before a change; what is None is not asked for."""

    match: tuple[str, ...] | None = None  #: strong tags of If-Match; ANY: whatever is there
    none_match: tuple[str, ...] | None = None  #: tags of If-None-Match; ANY: nothing may be there
    unmodified_since: int | None = None  #: UTC seconds; counts only without `match`

    def check(self, name: str, versions: Collection[str], modified_at: int = 0) -> None:
        """Let the change go on if the thing is as it has to be.

        Args:
            name: Of the thing, for the error.
            versions: Of the thing as it is; none if there is no such thing.
            modified_at: When it was changed last, UTC milliseconds.

        Raises:
            PreconditionFailed: It is not.
        """
        if self.match is not None and not _named(self.match, versions):
            why = (
                f'"{name}" is not the version that was given any more'
                if versions
                else f'There is no "{name}"'
            )
            raise _failed(f"{why}; nothing was changed. Read it again.", versions)
        if self.none_match is not None and _named(self.none_match, versions):
            what = "is here already" if self.none_match == ANY else "is still the same"
            raise _failed(f'"{name}" {what}; nothing was changed.', versions)
        since = self.unmodified_since if self.match is None and versions else None
        if since is not None and modified_at // 1000 > since:
            raise _failed(
                f'"{name}" was changed after the date that was given; nothing was changed. Read it again.',
                versions,
            )


def _named(tags: Collection[str], versions: Collection[str]) -> bool:
    return bool(versions) and (tags == ANY or any(tag.partition(".")[0] in versions for tag in tags))


def _failed(message: str, versions: Collection[str]) -> PreconditionFailed:
    return PreconditionFailed(message, versions=list(versions))
