"""Every error the product raises on purpose, in one tree.

    ApplianceError
      InvalidInput          InvalidName, InvalidDigest, InvalidSettings (KeysMismatch), WireInvalid, RecordAhead,
                            TooLarge, EmptyFile, WrongMediaType
      NotAllowed            NotAuthenticated, PermissionDenied, TooManyAttempts, PasswordChangeRequired
        SignatureRefused    SignatureMissing, SignatureInvalid, ClockSkew, RequestReplayed, PeerUnknown
      NotFound              PackageUnknown, PackageWithdrawn, VersionUnknown, UploadUnknown, PeerNotFound,
                            NodeUnknown, JobUnknown, AccountUnknown, TokenUnknown, SessionUnknown
      Conflict              PackageExists, OffsetMismatch, InvalidTransition, DuplicateKey, StaleRevision,
                            InviteRefused, AccountExists, PreconditionFailed
      IntegrityFailure      DigestMismatch (RecordWrong), SizeMismatch, ManifestInvalid, ChunkInvalid, BlobMissing
      StorageError          StorageFull, SyncFailed, NotSettled, StoreUnavailable (StoreDamaged, StoreMoved)
      PeerError             PeerUnreachable, PeerBusy, PeerRefused, PeerMisbehaved, PeerBackingOff
      DirectoryUnavailable
      LeaseLost
      PackageArriving       ProofPending
      Stopping
      TwinRunning

`code` is the stable word that programs match on, `retryable` says whether the same call can succeed later
without anybody changing anything, and the message says what to do. HTTP statuses live in `api.errors`.
"""


class ApplianceError(Exception):
    """Something went wrong and we know what."""

    code = "error"
    retryable = False

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n")[0])
        self.details: dict[str, object] = details

    @property
    def message(self) -> str:
        """The sentence for a person."""
        return str(self.args[0])


class InvalidInput(ApplianceError):
    """The request is not valid."""

    code = "invalid_input"


class InvalidName(InvalidInput):
    """The file name breaks a rule."""

    code = "invalid_name"


class InvalidDigest(InvalidInput):
    """The checksum is not written as its kind demands."""

    code = "invalid_digest"


class InvalidSettings(InvalidInput):
    """The settings cannot be used."""

    code = "invalid_settings"


class KeysMismatch(InvalidSettings):
    """The node's keys and its database do not belong together."""

    code = "keys_mismatch"


class WireInvalid(InvalidInput):
    """A message from another node does not follow the protocol."""

    code = "wire_invalid"


class RecordAhead(InvalidInput):
    """A record is too far ahead of this node's clock."""

    code = "record_ahead"


class TooLarge(InvalidInput):
    """The request's body is larger than is allowed."""

    code = "too_large"


class EmptyFile(InvalidInput):
    """The file has no bytes. A bundle is a folder and has to be zipped; an empty file on purpose has to be said."""

    code = "empty_file"


class WrongMediaType(InvalidInput):
    """The body is of a kind that is not taken here."""

    code = "unsupported_media_type"


class NotAllowed(ApplianceError):
    """The caller may not do this."""

    code = "not_allowed"


class NotAuthenticated(NotAllowed):
    """Sign in first: HTTP Basic with an account, or a bearer token."""

    code = "not_authenticated"


class PermissionDenied(NotAllowed):
    """The account's role does not permit this."""

    code = "permission_denied"


class PasswordChangeRequired(NotAllowed):
    """The password was generated: set a new one first."""

    code = "password_change_required"


class TooManyAttempts(NotAllowed):
    """Too many attempts failed; wait before the next."""

    code = "too_many_attempts"
    retryable = True


class SignatureRefused(NotAllowed):
    """The request's signature was refused."""

    code = "signature_refused"


class SignatureMissing(SignatureRefused):
    """The request carries no signature of a node."""

    code = "signature_missing"


class SignatureInvalid(SignatureRefused):
    """The request's signature does not verify."""

    code = "signature_invalid"


class ClockSkew(SignatureRefused):
    """The request was signed at a time too far from this node's clock."""

    code = "clock_skew"


class RequestReplayed(SignatureRefused):
    """The request was already received once."""

    code = "request_replayed"


class PeerUnknown(SignatureRefused):
    """The signing node is not registered here."""

    code = "peer_unknown"


class NotFound(ApplianceError):
    """There is no such thing here."""

    code = "not_found"


class PackageUnknown(NotFound):
    """There is no such package."""

    code = "package_unknown"


class PackageWithdrawn(NotFound):
    """The package was withdrawn."""

    code = "package_withdrawn"


class VersionUnknown(NotFound):
    """This node keeps no such version of the package."""

    code = "version_unknown"


class UploadUnknown(NotFound):
    """There is no such upload, or it has expired."""

    code = "upload_unknown"


class PeerNotFound(NotFound):
    """There is no such peer."""

    code = "peer_not_found"


class NodeUnknown(NotFound):
    """There is no such node in the network."""

    code = "node_unknown"


class JobUnknown(NotFound):
    """There is no such job or transfer."""

    code = "job_unknown"


class AccountUnknown(NotFound):
    """There is no such account."""

    code = "account_unknown"


class TokenUnknown(NotFound):
    """There is no such token."""

    code = "token_unknown"


class SessionUnknown(NotFound):
    """There is no such session."""

    code = "session_unknown"


class Conflict(ApplianceError):
    """The request contradicts what is here."""

    code = "conflict"


class PackageExists(Conflict):
    """A package of this name is already here; ask to replace it."""

    code = "package_exists"


class OffsetMismatch(Conflict):
    """The upload continues at another offset."""

    code = "offset_mismatch"


class InvalidTransition(Conflict):
    """The state does not permit this."""

    code = "invalid_transition"


class DuplicateKey(Conflict):
    """A document with this unique key exists."""

    code = "duplicate_key"


class StaleRevision(Conflict):
    """Somebody else changed this first; read it again."""

    code = "stale_revision"
    retryable = True


class PreconditionFailed(Conflict):
    """It is not as the request insists (If-Match, If-None-Match); nothing was changed."""

    code = "precondition_failed"


class InviteRefused(Conflict):
    """The invite cannot be used."""

    code = "invite_refused"


class AccountExists(Conflict):
    """An account of this name exists."""

    code = "account_exists"


class IntegrityFailure(ApplianceError):
    """Bytes are not what was promised."""

    code = "integrity_failure"


class DigestMismatch(IntegrityFailure):
    """The checksum does not match."""

    code = "digest_mismatch"


class RecordWrong(DigestMismatch):
    """Every chunk matches the manifest and the whole file does not: the package's record cannot be right."""

    code = "record_wrong"
    retryable = True


class SizeMismatch(IntegrityFailure):
    """The size does not match."""

    code = "size_mismatch"


class ManifestInvalid(IntegrityFailure):
    """The manifest does not match its record."""

    code = "manifest_invalid"


class ChunkInvalid(IntegrityFailure):
    """A chunk does not match the manifest."""

    code = "chunk_invalid"
    retryable = True


class BlobMissing(IntegrityFailure):
    """The file of this package is missing or damaged on disk."""

    code = "blob_missing"
    retryable = True


class StorageError(ApplianceError):
    """The disk or the database does not work."""

    code = "storage_error"
    retryable = True


class StorageFull(StorageError):
    """There is not enough free disk space."""

    code = "storage_full"


class SyncFailed(StorageError):
    """The disk did not keep what was written. Check the disk, then send it again."""

    code = "sync_failed"


class NotSettled(StorageError):
    """A change is recorded and other nodes learn of it; this node could not carry it out yet and tries again."""

    code = "not_settled"


class StoreUnavailable(StorageError):
    """The database does not answer."""

    code = "store_unavailable"


class StoreDamaged(StoreUnavailable):
    """The database is damaged."""

    code = "store_damaged"


class StoreMoved(StoreUnavailable):
    """The file of the database is no longer where it was opened."""

    code = "store_moved"


class PeerError(ApplianceError):
    """Another node did not do what was asked."""

    code = "peer_error"
    retryable = True


class PeerUnreachable(PeerError):
    """The peer cannot be reached."""

    code = "peer_unreachable"


class PeerBusy(PeerError):
    """The peer asked us to come back later."""

    code = "peer_busy"


class PeerRefused(PeerError):
    """The peer refused the request."""

    code = "peer_refused"
    retryable = False


class PeerMisbehaved(PeerError):
    """The peer broke the protocol."""

    code = "peer_misbehaved"


class PeerBackingOff(PeerError):
    """The peer failed lately and is left alone for a while."""

    code = "peer_backing_off"


class DirectoryUnavailable(ApplianceError):
    """The directory does not answer. Accounts of this node still work; try again, or ask an administrator."""

    code = "directory_unavailable"
    retryable = True


class LeaseLost(ApplianceError):
    """Another worker holds this job now."""

    code = "lease_lost"


class PackageArriving(ApplianceError):
    """The package is still arriving at this node."""

    code = "package_arriving"
    retryable = True


class ProofPending(PackageArriving):
    """The whole file is read before this node proves that it has it."""

    code = "proof_pending"


class Stopping(ApplianceError):
    """The node is stopping; the work goes on after the next start."""

    code = "stopping"
    retryable = True


class TwinRunning(ApplianceError):
    """Another copy of this node is running. Stop one of the two, then restart the other."""

    code = "twin_running"


#: What a database raises that passes by itself: it is away, or its disk is full and it can only be read.
OUTAGES = (StoreUnavailable, StorageFull)
