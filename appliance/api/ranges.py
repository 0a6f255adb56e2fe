"""HTTP ranges and preconditions (RFC 9110 sections 13 and 14), for one strong ETag and one byte range."""

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*$", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file."""

    first: int  #: offset of its first byte
    length: int  #: bytes


class Unsatisfiable(Exception):
    """The range begins behind the end of the file."""


def parse_range(header: str | None, size: int) -> Span | None:
    """The stretch that a Range header asks for, or None where the whole is to be sent.

    Headers that are not valid, ask for several ranges or use another unit are ignored, as RFC 9110 allows.

    Raises:
        Unsatisfiable: It is valid and lies behind the end.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        count = min(int(last), size)
        if not count:
            raise Unsatisfiable
        return Span(size - count, count)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    stop = min(int(last), size - 1) if last else size - 1
    return Span(start, stop - start + 1)


def range_applies(if_range: str | None, etag: str, modified_s: int) -> bool:
    """Whether a Range header is to be honoured, given If-Range.

    Args:
        if_range: The header, if any.
        etag: The strong ETag with its quotes.
        modified_s: Last-Modified, UTC seconds.
    """
    if if_range is None:
        return True
    if_range = if_range.strip()
    if if_range.startswith(('"', "W/")):
        return if_range == etag
    try:
        return int(parsedate_to_datetime(if_range).timestamp()) == modified_s
    except (TypeError, ValueError, OverflowError):
        return False


def still_matches(if_match: str | None, if_unmodified_since: str | None, etag: str, modified_s: int) -> bool:
    """Whether these are the bytes that the caller insists on (RFC 9110, 13.1.1 and 13.1.4)."""
    if if_match is not None:
        return if_match.strip() == "*" or etag in re.findall(r'(?:W/)?"[^"]*"', if_match)
    if if_unmodified_since:
        try:
            return modified_s <= int(parsedate_to_datetime(if_unmodified_since).timestamp())
        except (TypeError, ValueError, OverflowError):
            return True
    return True


def not_modified(
    if_none_match: str | None, if_modified_since: str | None, etag: str, modified_s: int
) -> bool:
    """Whether the caller has these bytes already."""
    if if_none_match is not None:
        return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)
    if if_modified_since:
        try:
            return int(parsedate_to_datetime(if_modified_since).timestamp()) >= modified_s
        except (TypeError, ValueError, OverflowError):
            return False
    return False
