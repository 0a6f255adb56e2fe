"""Every call of the admin API in one table: what it takes, what it answers, who may make it, how it can fail.

Keep it in step with `routes`: tests compare the two, and the roles here with those that the handlers demand.
"""

from dataclasses import dataclass

from pydantic import BaseModel

from appliance.domain import errors as e
from appliance.domain import mdm_errors as m
from appliance.domain import notify_errors as n

from . import models

Errors = tuple[type[e.ApplianceError], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of the admin API."""

    method: str
    path: str
    summary: str
    role: str = "viewer"
    answer: str = ""  #: a schema's name, "[Name]" for a page of them, "" for nothing
    media: str = ""  #: the type of an answer that has no schema, such as "text/csv"
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    binary: bool = False  #: the body is the file
    parameters: tuple[str, ...] = ()  #: further query parameters
    headers: tuple[str, ...] = ()  #: request headers
    errors: Errors = ()  #: its own; see `failures` for those of all

    def failures(self) -> Errors:
        """How it can fail: in the ways of every call of its kind, and its own."""
        found: list[type[e.ApplianceError]] = [e.NotAuthenticated, e.TooManyAttempts, e.StoreUnavailable]
        if self.role != "viewer" or self.method not in {"get", "head", "options"}:
            found.append(e.PermissionDenied)
        found.append(e.InvalidInput)  # what is not known is refused, parameters too
        if self.body or self.binary:
            found.append(e.TooLarge)
        return tuple(dict.fromkeys((*found, *self.errors)))


_PUT = ("stage", "tags", "notes", "replace", "allow_empty", "sha1", "sha256")
_CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
_CONDITIONAL: Errors = (e.PreconditionFailed,)
_PUBLISHING: Errors = (
    e.InvalidName, e.InvalidDigest, e.PackageExists, e.DigestMismatch, e.StorageFull, e.EmptyFile, e.WrongMediaType,
    e.PreconditionFailed,
)  # fmt: skip
_GONE: Errors = (e.PackageUnknown, e.PackageWithdrawn)
_STEP: Errors = (e.JobUnknown, e.InvalidTransition)
_JOINING: Errors = (e.InviteRefused, e.PeerUnreachable, e.PeerRefused, e.PeerMisbehaved)

_SERVER = "/mdm/servers/{server}"
_MDM: Errors = (e.NotFound, m.ServerUnknown)
_MDM_CALL: Errors = (*_MDM, m.MdmUnreachable, m.MdmNeedsAttention, m.MdmRefused)

_MDM_OPERATIONS = [
    Operation(method="get", path="/mdm/kinds", summary="Kinds of MDM server, and what is set for each",
              answer="[MdmKind]", errors=(e.NotFound,)),
    Operation(method="post", path="/mdm/check", summary="Try the configuration of an MDM server without saving it",
              role="admin", answer="MdmReport", body=models.MdmServerInput, errors=(e.NotFound,)),
    Operation(method="get", path="/mdm/servers", summary="MDM servers, without their secrets", answer="[MdmServer]",
              errors=(e.NotFound,)),
    Operation(method="post", path="/mdm/servers", summary="Connect an MDM server", role="admin", answer="MdmServer",
              status=201, body=models.MdmServerInput, errors=(e.NotFound, m.ServerExists)),
    Operation(method="get", path=_SERVER, summary="One MDM server", answer="MdmServer", errors=_MDM),
    Operation(method="patch", path=_SERVER, summary="Change an MDM server", role="admin", answer="MdmServer",
              body=models.MdmServerChange, headers=_CONDITIONS,
              errors=(*_MDM, m.ServerExists, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="delete", path=_SERVER, role="admin", status=204, headers=_CONDITIONS,
              errors=(*_MDM, e.StaleRevision, *_CONDITIONAL),
              summary="Forget an MDM server and all that is known of it; in the MDM nothing changes"),
    Operation(method="post", path=_SERVER + "/check", role="admin", answer="MdmReport", body=models.MdmServerDraft,
              summary="Try the saved configuration, or what it would be with some fields changed", errors=_MDM),
    Operation(method="post", path=_SERVER + "/sync", summary="Bring an MDM server and the network into line now",
              role="admin", answer="MdmSyncing", status=202, body=models.MdmSync,
              errors=(*_MDM, e.InvalidTransition)),
    Operation(method="post", path=_SERVER + "/pause", summary="Ask nothing of an MDM server for a while",
              role="admin", answer="MdmServer", body=models.MdmPause, errors=_MDM),
    Operation(method="post", path=_SERVER + "/resume", summary="End a pause", role="admin", answer="MdmServer",
              errors=_MDM),
    Operation(method="get", path=_SERVER + "/packages", answer="[MdmPackage]", query=models.MdmPackagesQuery,
              summary="What came in from package records, then what was mirrored to them", errors=_MDM),
    Operation(method="get", path=_SERVER + "/points", summary="The nodes' distribution point records",
              answer="[MdmPoint]", errors=_MDM),
    Operation(method="get", path=_SERVER + "/segments", summary="Network segments of the MDM, with suggestions",
              answer="[MdmSegment]", errors=_MDM_CALL),
    Operation(method="post", path=_SERVER + "/webhooks", summary="Create or mend our webhooks in the MDM now",
              role="admin", answer="MdmReport", errors=(*_MDM_CALL, e.InvalidInput)),
    Operation(method="delete", path=_SERVER + "/webhooks", summary="Delete our webhooks in the MDM", role="admin",
              answer="MdmRemoved", errors=(*_MDM_CALL, e.InvalidInput)),
]  # fmt: skip

OPERATIONS = [
    Operation(method="get", path="/about", summary="Who this node is, and who asks", answer="About"),
    Operation(method="get", path="/system", summary="Disk, memory, uptime, version", answer="System"),
    Operation(method="get", path="/settings", summary="The settings in force, secrets masked", role="admin",
              answer="[Setting]"),
    Operation(method="get", path="/events.csv", summary="Every event that is kept, as a table (CSV)",
              query=models.EventsExport, media="text/csv"),
    Operation(method="get", path="/system/throughput", answer="Throughput",
              summary="Bytes of packages that came and went in the last hour, by this process"),
    Operation(method="get", path="/scrub", answer="Scrub",
              summary="How the reading of all files is doing, and what was found damaged"),
    Operation(method="post", path="/scrub", summary="Read every file now and compare it with its SHA-256",
              role="operator", answer="Scrub", status=202, body=models.NoQuery),
    Operation(method="get", path="/events", summary="What happened at this node", answer="[Event]",
              query=models.EventsQuery),
    Operation(method="get", path="/packages", summary="Packages", answer="[ListedPackage]", query=models.PackagesQuery),
    Operation(method="get", path="/packages/{package}", summary="One package with its replicas across the network",
              answer="PackageDetail", errors=(e.PackageUnknown,)),
    Operation(method="put", path="/packages/{package}",
              summary="Add a file under this name; 200 if it replaced another or is here already", role="operator",
              answer="UploadedPackage", status=201, binary=True, parameters=_PUT,
              headers=("Content-Digest", "Repr-Digest", *_CONDITIONS), errors=_PUBLISHING),
    Operation(method="patch", path="/packages/{package}", summary="Change stage, tags, notes or metadata",
              role="operator", answer="Package", body=models.PackageChange, headers=_CONDITIONS,
              errors=(*_GONE, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="delete", path="/packages/{package}", summary="Withdraw from every node", role="operator",
              answer="Package", headers=_CONDITIONS, errors=(*_GONE, *_CONDITIONAL)),
    Operation(method="get", path="/packages/{package}/manifest", summary="The SHA-1 of every chunk",
              answer="Manifest", errors=(e.PackageUnknown,)),
    Operation(method="get", path="/packages/{package}/mdm", summary="What the MDM servers know of one package",
              answer="[MdmPackageRecord]", errors=(e.PackageUnknown,)),
    Operation(method="get", path="/packages/{package}/install-manifest", errors=(e.PackageUnknown, e.PackageWithdrawn),
              summary="A property list for the MDM command InstallEnterpriseApplication, with our address",
              media="application/xml"),
    Operation(method="post", path="/packages/{package}/verify", summary="Check the file here against its hashes",
              role="operator", answer="Verification", status=202, errors=(e.PackageUnknown,)),
    Operation(method="get", path="/packages/{package}/versions", answer="[PackageVersion]", query=models.NoQuery,
              summary="The current version, and earlier ones that can be restored on this node",
              errors=(e.PackageUnknown,)),
    Operation(method="post", path="/packages/{package}/restore", role="operator", answer="Restoration", status=202,
              summary="Verify an earlier version on this node and publish it again; the job says how it ended",
              body=models.PackageRestore, errors=(e.PackageUnknown, e.VersionUnknown, e.Conflict)),
    Operation(method="get", path="/uploads", summary="Uploads that are not complete", answer="[Upload]"),
    Operation(method="post", path="/uploads", summary="Open an upload (tus 1.0.0)", role="operator", status=201,
              binary=True, headers=("Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Concat",
                                    "Upload-Checksum", *_CONDITIONS), errors=(*_PUBLISHING, e.UploadUnknown)),
    Operation(method="options", path="/uploads", summary="What the tus server can do", status=204),
    Operation(method="get", path="/uploads/{upload}", summary="How much of an upload is here", answer="UploadDetail",
              errors=(e.UploadUnknown,)),
    Operation(method="head", path="/uploads/{upload}", summary="How much of an upload is here (tus)",
              role="operator", headers=("Tus-Resumable",), errors=(e.UploadUnknown,)),
    Operation(method="patch", path="/uploads/{upload}", summary="Continue an upload (tus)", role="operator",
              status=204, binary=True, headers=("Tus-Resumable", "Upload-Offset", "Upload-Checksum"),
              errors=(*_PUBLISHING, e.UploadUnknown, e.OffsetMismatch)),
    Operation(method="delete", path="/uploads/{upload}", summary="End an upload (tus)", role="operator", status=204,
              headers=("Tus-Resumable",), errors=(e.UploadUnknown,)),
    Operation(method="get", path="/peers", summary="Registered peers and their health", answer="[Peer]"),
    Operation(method="get", path="/peers/invites", summary="Invites that have not expired", role="admin",
              answer="[Invite]"),
    Operation(method="post", path="/peers/invites", summary="Make a one-time invite; its text is shown only now",
              role="admin", answer="NewInvite", status=201, body=models.InviteInput),
    Operation(method="delete", path="/peers/invites/{invite}", summary="Revoke an invite", role="admin", status=204,
              errors=(e.PeerNotFound,)),
    Operation(method="post", path="/peers/join", summary="Register with the node that made an invite", role="admin",
              answer="Peer", status=201, body=models.JoinInput, errors=_JOINING),
    Operation(method="get", path="/peers/{peer}", summary="One peer", answer="Peer", errors=(e.PeerNotFound,)),
    Operation(method="delete", path="/peers/{peer}", summary="End a registration", role="admin", status=204,
              errors=(e.PeerNotFound,)),
    Operation(method="get", path="/nodes", summary="Every node of the network", answer="[Node]"),
    Operation(method="get", path="/nodes/{node}", summary="One node of the network", answer="Node",
              errors=(e.NodeUnknown,)),
    Operation(method="delete", path="/nodes/{node}", role="admin", status=204, errors=(e.NodeUnknown, e.Conflict),
              summary="Remove a node that is gone for good from the whole network"),
    Operation(method="get", path="/transfers", summary="What is brought here", answer="[Transfer]",
              query=models.TransfersQuery, errors=(e.PackageUnknown,)),
    Operation(method="get", path="/transfers/{transfer}", summary="One transfer", answer="Transfer",
              errors=(e.JobUnknown,)),
    Operation(method="post", path="/transfers/{transfer}/{action}", role="operator", answer="Transfer", errors=_STEP,
              summary="Retry or cancel a transfer, or let it go first (retry, cancel, prioritize)"),
    Operation(method="get", path="/jobs", summary="Jobs", answer="[Job]", query=models.JobsQuery),
    Operation(method="get", path="/jobs/{job}", summary="One job", answer="Job", errors=(e.JobUnknown,)),
    Operation(method="post", path="/jobs/{job}/{action}", role="operator", answer="Job", errors=_STEP,
              summary="Retry or cancel a job, or let it go first (retry, cancel, prioritize)"),
    Operation(method="get", path="/users", summary="Accounts", role="admin", answer="[User]"),
    Operation(method="post", path="/users", summary="Make an account", role="admin", answer="User", status=201,
              body=models.UserInput, errors=(e.AccountExists,)),
    Operation(method="get", path="/users/{user}", summary="One account", role="admin", answer="User",
              errors=(e.AccountUnknown,)),
    Operation(method="patch", path="/users/{user}", answer="User", body=models.UserChange,
              summary="Change one's own password, or as an administrator anybody's password and role",
              headers=_CONDITIONS, errors=(e.AccountUnknown, e.Conflict, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="delete", path="/users/{user}", summary="Delete an account and its tokens", role="admin",
              status=204, headers=_CONDITIONS,
              errors=(e.AccountUnknown, e.Conflict, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="delete", path="/users/{user}/sessions", answer="Ended",
              errors=(e.PermissionDenied, e.AccountUnknown),
              summary="Sign out everywhere: oneself, or as an administrator anybody"),
    Operation(method="get", path="/sessions", summary="One's own sessions in browsers; administrators see all",
              answer="[Session]"),
    Operation(method="delete", path="/sessions/{session}", summary="End a session", status=204,
              errors=(e.SessionUnknown,)),
    Operation(method="get", path="/tokens", summary="One's own API tokens; administrators see all",
              answer="[Token]"),
    Operation(method="post", path="/tokens", summary="Make an API token; it is shown only now", answer="NewToken",
              status=201, body=models.TokenInput, errors=(e.Conflict,)),
    Operation(method="delete", path="/tokens/{token}", summary="Revoke an API token", status=204,
              errors=(e.TokenUnknown,)),
    Operation(method="get", path="/directory", role="admin", answer="Directory",
              summary="The directory (LDAP): its settings, without secrets, and how its servers do"),
    Operation(method="post", path="/directory/test", role="admin", answer="DirectoryTestResult",
              summary="Try the servers of the directory, and what they say of a person, step by step",
              body=models.DirectoryTest, errors=(e.Conflict, e.DirectoryUnavailable)),
    *_MDM_OPERATIONS,
    Operation(method="get", path="/destinations", summary="Where notifications go, and how it is doing",
              role="operator", answer="[Destination]"),
    Operation(method="post", path="/destinations", role="admin", answer="NewDestination", status=201,
              summary="Make a destination; the secret that signs its webhooks is shown only now",
              body=models.DestinationInput, errors=(n.DestinationExists, n.TemplateInvalid, e.Conflict)),
    Operation(method="get", path="/destinations/{destination}", summary="One destination", role="operator",
              answer="Destination", errors=(n.DestinationUnknown,)),
    Operation(method="patch", path="/destinations/{destination}", summary="Change a destination", role="admin",
              answer="Destination", body=models.DestinationChange, headers=_CONDITIONS,
              errors=(n.DestinationUnknown, n.DestinationExists, n.TemplateInvalid, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="delete", path="/destinations/{destination}", role="admin", status=204, headers=_CONDITIONS,
              summary="Remove a destination with what is owed to it",
              errors=(n.DestinationUnknown, e.StaleRevision, *_CONDITIONAL)),
    Operation(method="post", path="/destinations/{destination}/test", role="admin", answer="TestResult",
              summary="Send a test event now; the answer says how it went", errors=(n.DestinationUnknown,)),
    Operation(method="post", path="/destinations/{destination}/rotate", role="admin", answer="NewDestination",
              summary="Make a new secret, shown only now; the old one signs for a day more",
              errors=(n.DestinationUnknown, e.InvalidInput)),
    Operation(method="get", path="/deliveries", summary="What was delivered, and what is owed", role="operator",
              answer="[Delivery]", query=models.DeliveriesQuery),
    Operation(method="get", path="/deliveries/{delivery}", summary="One delivery", role="operator",
              answer="Delivery", errors=(n.DeliveryUnknown,)),
    Operation(method="post", path="/deliveries/{delivery}/resend", summary="Send a delivery again now",
              role="operator", answer="Delivery", errors=(n.DeliveryUnknown, e.Conflict)),
    Operation(method="get", path="/openapi.json", summary="This description", media="application/json"),
    Operation(method="get", path="/docs", summary="This description as a page", media="text/html"),
]  # fmt: skip
