"""The client's errors as the bridge knows them."""

import contextlib
from collections.abc import Iterator

from appliance.domain.mdm_errors import MdmBusy, MdmError, MdmNeedsAttention, MdmRefused, MdmUnreachable

from ..jamf import (
    JamfAuthenticationError,
    JamfAuthorizationError,
    JamfBusy,
    JamfConflict,
    JamfError,
    JamfIncomplete,
    JamfInvalid,
    JamfNotFound,
    JamfNotJamf,
    JamfServerError,
    JamfTlsError,
    JamfUnreachable,
)

_ATTENTION = (JamfAuthenticationError, JamfAuthorizationError, JamfNotJamf, JamfTlsError)
_REFUSED = (JamfConflict, JamfInvalid, JamfNotFound)


@contextlib.contextmanager
def mdm_errors() -> Iterator[None]:
    """Raise what the block raises as `MdmError`s."""
    try:
        yield
    except JamfError as exc:
        raise translated(exc) from exc


def translated(error: JamfError) -> MdmError:
    """The error of the bridge for one of the client."""
    text = str(error)
    if isinstance(error, _ATTENTION):
        return MdmNeedsAttention(text)
    if isinstance(error, JamfBusy):
        wait = {"retry_after": error.retry_after} if error.retry_after is not None else {}
        return MdmBusy(text, **wait)
    if isinstance(error, _REFUSED):
        return MdmRefused(text)
    if isinstance(error, JamfUnreachable | JamfServerError | JamfIncomplete):
        return MdmUnreachable(text)
    return MdmError(text)
