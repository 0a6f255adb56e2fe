"""What can go wrong with an MDM server, in the product's tree of errors."""

from .errors import ApplianceError, Conflict, IntegrityFailure, InvalidInput, NotFound


class MdmError(ApplianceError):
    """The MDM server did not do what was asked."""

    code = "mdm_error"
    retryable = True


class MdmUnreachable(MdmError):
    """The MDM server cannot be reached."""

    code = "mdm_unreachable"


class MdmBusy(MdmError):
    """The MDM server asks to wait; `retry_after` in the details says how many seconds."""

    code = "mdm_busy"


class MdmNeedsAttention(MdmError):
    """Only a person can mend it: credentials, a privilege, the URL, a certificate."""

    code = "mdm_attention"
    retryable = False


class MdmRefused(MdmError):
    """The MDM server refused this one request for good."""

    code = "mdm_refused"
    retryable = False


class BytesWrong(IntegrityFailure):
    """The bytes that the MDM gave are not those that its record states."""

    code = "mdm_bytes_wrong"


class ServerUnknown(NotFound):
    """There is no such MDM server."""

    code = "mdm_server_unknown"


class ServerExists(Conflict):
    """An MDM server of this name exists."""

    code = "mdm_server_exists"


class HookInvalid(InvalidInput):
    """This cannot be a webhook of that MDM."""

    code = "hook_invalid"
