"""One table from error class to HTTP status, and the one form in which errors are answered (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from appliance.domain import errors as e
from appliance.domain.mdm_errors import MdmError
from appliance.domain.notify_errors import DeliveryError

STATUS: dict[type[e.ApplianceError], int] = {
    e.ApplianceError: 500,
    e.InvalidInput: 400,
    e.EmptyFile: 422,
    e.WrongMediaType: 415,
    e.NotAllowed: 403,
    e.NotAuthenticated: 401,
    e.SignatureRefused: 401,
    e.NotFound: 404,
    e.PackageWithdrawn: 410,
    e.Conflict: 409,
    e.PreconditionFailed: 412,
    e.IntegrityFailure: 422,
    e.BlobMissing: 503,
    e.StorageError: 503,
    e.StorageFull: 507,
    e.PeerError: 502,
    e.DirectoryUnavailable: 503,
    e.LeaseLost: 409,
    e.PackageArriving: 503,
    e.Stopping: 503,
    e.TwinRunning: 503,
    e.TooManyAttempts: 429,
    e.TooLarge: 413,
    MdmError: 502,
    DeliveryError: 502,
}
CODES = {
    400: "invalid_input",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    412: "precondition_failed",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    460: "checksum_mismatch",
}  #: of errors that only HTTP knows
_TITLES = {460: "Checksum Mismatch"}  #: of statuses that are not in the registry; this is tus
RETRY_AFTER_S = {
    e.PackageArriving: 30,
    e.BlobMissing: 30,
    e.StoreUnavailable: 5,
    e.Stopping: 10,
    e.DirectoryUnavailable: 30,
}


def status_of(error: e.ApplianceError) -> int:
    """The HTTP status of an error: that of its class, or of the nearest class above it that has one."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def retry_after(error: e.ApplianceError) -> int | None:
    """Seconds for the Retry-After header, if there should be one."""
    stated = error.details.get("retry_after")
    if isinstance(stated, int | float):
        return max(1, round(stated))
    return next((RETRY_AFTER_S[cls] for cls in type(error).__mro__ if cls in RETRY_AFTER_S), None)


def problem(
    status: int, *, code: str, detail: str, request_id: str, details: dict[str, object] | None = None
) -> dict[str, Any]:
    """The body of an error answer."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = _TITLES.get(status, "Error")
    return {
        **(details or {}),
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
