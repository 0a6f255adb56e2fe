"""What the driver's errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from appliance.domain.errors import ApplianceError, DuplicateKey, StorageError, StorageFull, StoreUnavailable

_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13
REFUSALS = frozenset({_AUTHENTICATION_FAILED, _UNAUTHORIZED})
_OUT_OF_DISK_SPACE = 14031
_TRANSIENT = "TransientTransactionError"


def translate(error: PyMongoError) -> ApplianceError:
    """Return our error for one of the driver's."""
    if isinstance(error, DuplicateKeyError):
        name = duplicate_field(error)
        return DuplicateKey(f"A document with this {name} exists.", field=name)
    if isinstance(error, OperationFailure) and not isinstance(error, WTimeoutError):
        if error.code in REFUSALS:
            return StoreUnavailable("MongoDB refuses the user of the database URL.")
        if error.code == _OUT_OF_DISK_SPACE:
            return StorageFull("The disk of MongoDB is full.")
        if not error.has_error_label(_TRANSIENT) and not error.has_error_label("RetryableWriteError"):
            return StorageError(f"MongoDB refused an operation (error {error.code}).")
    if isinstance(error, ConnectionFailure):
        return StoreUnavailable("MongoDB cannot be reached, or has no primary.")
    return StoreUnavailable(f"MongoDB does not answer ({type(error).__name__}).")


def duplicate_field(error: DuplicateKeyError) -> str:
    """The field whose value exists already."""
    details = error.details or {}
    pattern = details.get("keyPattern") or {}
    if not pattern and details.get("writeErrors"):
        pattern = details["writeErrors"][0].get("keyPattern") or {}
    return next(iter(pattern), "_id")


@contextmanager
def translated() -> Iterator[None]:
    """Raise our errors for the driver's."""
    try:
        yield
    except PyMongoError as exc:
        raise translate(exc) from exc


def is_transient(error: PyMongoError) -> bool:
    """Whether the whole transaction may be tried again at once."""
    # A server was already waited for when none was found.
    return error.has_error_label(_TRANSIENT) and not isinstance(error, ServerSelectionTimeoutError)


def is_commit_unknown(error: PyMongoError) -> bool:
    """Whether only the commit may be tried again."""
    return error.has_error_label("UnknownTransactionCommitResult")
