"""The settings of a node: one class a section, each field with its default and the sentence that explains it."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from .directory import Directory, parse_grant
from .fields import FilePath, HostName, Seconds, Section, Size, Words, check_host

MIN_PASSWORD = 12
MAX_PASSWORD = 1024


class Node(Section):
    """Who this node is to others."""

    name: str = Field("", max_length=100, description="The name that people see. Empty: the host's name.")
    url: str = Field(
        "",
        description="The base URL under which other nodes call this one, such as https://ods-berlin.example.com:8080. "
        "Empty: http(s)://<host name>:<port>, or the address that http.host names.",
    )
    stages: Words = Field(
        ("dev", "test", "prod"), description="All stages, lowest trust first; the same on every node."
    )
    stage: str = Field(
        "prod",
        description="This node's stage: it takes packages of this stage and of those behind it in the list.",
    )
    tags_take: Words = Field((), description="If not empty: take only packages with one of these tags.")
    tags_refuse: Words = Field((), description="Never take packages with one of these tags.")

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        match = re.fullmatch(
            r"https?://([^/?#@\s:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(/[^?#@\s]*)?", url
        )
        if url and (match is None or not 0 < int(match[2] or 443) < 65_536):
            raise ValueError("it is not a URL such as https://ods.example.com:8080")
        if match is not None:
            check_host(match[1])
        return url.rstrip("/")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("it has characters that cannot be printed")
        return name.strip()

    @model_validator(mode="after")
    def _known_stage(self) -> "Node":
        if len(set(self.stages)) != len(self.stages) or not self.stages:
            raise ValueError("stages: name at least one stage, each once")
        if self.stage not in self.stages:
            raise ValueError(f"stage: {self.stage} is not one of stages ({', '.join(self.stages)})")
        return self


class Tls(Section):
    """TLS served by the node itself."""

    certificate: FilePath = Field("", description="PEM file of the certificate with its chain. Needs key.")
    key: FilePath = Field("", description="PEM file of the certificate's private key. Needs certificate.")
    self_signed: bool = Field(
        False,
        description="Make a certificate at the first start; invites carry its fingerprint, so peers pin it.",
    )
    ca_file: FilePath = Field(
        "", description="PEM file of authorities that are trusted for peers beside the system's."
    )

    @model_validator(mode="after")
    def _pairs(self) -> "Tls":
        self.check_pair("certificate", "key")
        if self.certificate and self.self_signed:
            raise ValueError("self_signed: a certificate is given already; set one of the two")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the node serves TLS."""
        return bool(self.certificate) or self.self_signed


class Http(Section):
    """The node's own web server."""

    host: HostName = Field(
        "0.0.0.0",  # noqa: S104
        description="Address to listen on; 0.0.0.0 is every IPv4 address of this machine.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    context: str = Field(
        "", description="A path before /Packages/, such as /ods, where an MDM's distribution point has one."
    )
    download_username: str = Field(
        "",
        max_length=255,
        description="Account that downloads ask for (HTTP Basic), the same on every node. Empty: none.",
    )
    download_password: str = Field("", max_length=255, description="Its password. Needs download_username.")
    trust_proxy: bool = Field(
        False, description="Believe X-Forwarded-For and X-Forwarded-Proto: only behind a proxy of your own."
    )
    connections: int = Field(2000, ge=16, description="At most so many connections at once.")
    tls: Tls = Field(default_factory=Tls, description="TLS served by the node itself.")

    @model_validator(mode="after")
    def _download_account(self) -> "Http":
        self.check_pair("download_username", "download_password")
        if ":" in self.download_username:
            raise ValueError("download_username: HTTP Basic allows no colon in the name")
        return self

    @field_validator("host")
    @classmethod
    def _host(cls, host: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._:%-]*", host):
            raise ValueError("it is not an address or a host name, without port")
        return host

    @field_validator("context")
    @classmethod
    def _context(cls, context: str) -> str:
        context = context.strip("/")
        if context and not re.fullmatch(
            r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", context
        ):
            raise ValueError("it is not a path such as /ods")
        return f"/{context}" if context else ""


class Server(Section):
    """The process: how it stops."""

    grace_s: Seconds = Field(
        8,
        ge=1,
        le=3600,
        description="Seconds that open requests and jobs have to end when the process is told to stop. The process "
        "ends one second later at the latest; systemd and containers must wait longer than that.",
    )


class Database(Section):
    """Where metadata is kept."""

    url: str = Field(
        "",
        description="mongodb://... of a replica set with the database's name. Empty: SQLite in the data directory.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if url and not url.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("it is not a URL that begins with mongodb:// or mongodb+srv://")
        return url


class Admin(Section):
    """The first account."""

    password: str = Field(
        "",
        description='Password of the first account, "admin", used only when it is made: at least 12 characters. '
        "Empty: a random one.",
    )

    @field_validator("password")
    @classmethod
    def _password(cls, password: str) -> str:
        if password and not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise ValueError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
        return password


class Web(Section):
    """Sessions of people in a browser."""

    session_idle_s: Seconds = Field(
        1800, ge=60, le=86_400, description="Seconds after which a session that nobody used has ended."
    )
    session_life_s: Seconds = Field(
        43_200, ge=60, le=2_592_000, description="Seconds after which every session has ended, used or not."
    )


class Transfers(Section):
    """Bringing packages here."""

    connections: int = Field(4, ge=1, le=32, description="Connections of one transfer, over all its sources.")
    min_free: Size = Field("2 GiB", description="Disk space that stays free, whatever comes.")  # type: ignore[assignment]


class Uploads(Section):
    """Taking packages in."""

    max_size: Size = Field(
        "100 GiB", ge=1, description="The largest file that is taken, from people and from peers."
    )  # type: ignore[assignment]
    expire_hours: float = Field(
        24,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="Hours after which an unfinished upload is deleted.",
    )
    stage: str = Field("prod", description="The stage of an uploaded package that names none.")


class Packages(Section):
    """Earlier versions of packages, which can be restored."""

    keep_days: float = Field(
        7,
        ge=0,
        le=90,
        allow_inf_nan=False,
        description="Days for which replaced and withdrawn files are kept and can be restored; 0: not at all. "
        "The oldest go earlier when the disk needs room.",
    )
    keep_versions: int = Field(
        2, ge=0, le=100, description="At most so many earlier versions of one package are kept; 0: none."
    )


class Worker(Section):
    """The jobs of this process."""

    embedded: bool = Field(
        True, description="Run jobs in the serving process; else start `ods worker` beside it."
    )
    transfer_slots: int = Field(
        8,
        ge=1,
        le=64,
        description="Transfers at a time; those of small packages have as many slots of their own.",
    )
    hash_slots: int = Field(
        2, ge=1, le=64, description="Hashing tasks at a time; more than cores are no better."
    )
    default_slots: int = Field(
        16,
        ge=1,
        le=256,
        description="Other jobs at a time; reconciling and the like have slots of their own.",
    )
    delivery_slots: int = Field(4, ge=1, le=64, description="Destinations that are notified at a time.")
    lease_s: Seconds = Field(
        30, ge=3, le=86_400, description="Seconds after which another worker takes over a dead one's jobs."
    )


class Scrub(Section):
    """Reading the files of packages again, to find damage before anybody is served it."""

    days: float = Field(
        30,
        ge=0,
        le=3650,
        allow_inf_nan=False,
        description="Days within which every file is read and compared with its SHA-256. 0: only when you start it.",
    )
    rate: Size = Field(  # type: ignore[assignment]
        "32 MiB", ge=65_536, description="Maximum number of bytes that are read in a second."
    )
    keep_damaged_days: float = Field(
        7,
        ge=0,
        le=3650,
        allow_inf_nan=False,
        description="Days after which a damaged file that no package needs is deleted, from when it was set aside.",
    )


class Replication(Section):
    """Agreement with peers."""

    reconcile_s: Seconds = Field(
        60, ge=1, le=86_400, description="Seconds between two readings of every peer's change feed."
    )
    stuck_after_s: Seconds = Field(
        600,
        ge=10,
        le=86_400,
        description="Seconds without a byte after which a package that should be here counts as stuck.",
    )
    digest_s: Seconds = Field(
        3600,
        ge=1,
        le=86_400,
        description="Seconds between two comparisons of all records with every peer, which find what a feed missed.",
    )


class Notifications(Section):
    """Webhooks, and what is told by itself."""

    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="If not empty: webhooks go to these hosts only, such as hooks.slack.com or *.example.com.",
    )
    allow_private: bool = Field(
        False,
        description="Let every webhook use plain HTTP and private, loopback or link-local addresses. "
        "An administrator can allow it for one destination instead.",
    )
    disk_low: Size = Field("10 GiB", description="Tell when less disk space is free; 0 never.")  # type: ignore[assignment]

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:]+\]?", host):
                raise ValueError(f"{host} is not a host name such as hooks.slack.com or *.example.com")
        return hosts


class Mail(Section):
    """The server that takes this node's mail."""

    host: HostName = Field("", max_length=253, description="Name of the SMTP server. Empty: no mail.")
    port: int = Field(0, ge=0, le=65535, description="Its port. 0: 587, with tls implicit 465, with none 25.")
    tls: Literal["none", "starttls", "implicit"] = Field(
        "starttls",
        description="starttls or implicit, with the certificate checked; none only in your own network.",
    )
    ca_file: FilePath = Field(
        "", description="PEM file of authorities that are trusted for it beside the system's."
    )
    username: str = Field("", max_length=255, description="Account at the server. Empty: none. Needs TLS.")
    password: str = Field("", max_length=1024, description="Its password.")
    sender: str = Field("", max_length=254, description="Address that mail comes from. Needed with host.")

    @model_validator(mode="after")
    def _complete(self) -> "Mail":
        self.check_pair("username", "password")
        if self.host and not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", self.sender):
            raise ValueError("sender: with host it is needed: an address such as ods@example.com")
        if self.username and self.tls == "none":
            raise ValueError("tls: a password is never sent without TLS; set starttls or implicit")
        return self


class Log(Section):
    """What is logged to standard error."""

    format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="json: a JSON object a line; console: for people; auto: console on a terminal, else json.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is worth a line.")


class Settings(Section):
    """All settings of a node."""

    data_dir: FilePath = Field(
        "data", min_length=1, description="Directory of everything that the node keeps."
    )
    node: Node = Field(default_factory=Node, description="Who this node is to others.")
    http: Http = Field(default_factory=Http, description="The node's own web server.")
    server: Server = Field(default_factory=Server, description="The process: how it stops.")
    database: Database = Field(default_factory=Database, description="Where metadata is kept.")
    admin: Admin = Field(default_factory=Admin, description="The first account.")
    directory: Directory = Field(
        default_factory=Directory, description="Accounts of an LDAP server or Active Directory."
    )
    web: Web = Field(default_factory=Web, description="Sessions of people in a browser.")
    transfers: Transfers = Field(default_factory=Transfers, description="Bringing packages here.")
    uploads: Uploads = Field(default_factory=Uploads, description="Taking packages in.")
    packages: Packages = Field(
        default_factory=Packages, description="Earlier versions of packages, which can be restored."
    )
    worker: Worker = Field(default_factory=Worker, description="The jobs of this process.")
    scrub: Scrub = Field(
        default_factory=Scrub,
        description="Reading the files of packages again, to find damage before anybody is served it.",
    )
    replication: Replication = Field(default_factory=Replication, description="Agreement with peers.")
    notifications: Notifications = Field(
        default_factory=Notifications, description="Webhooks, and what is told by itself."
    )
    mail: Mail = Field(default_factory=Mail, description="The server that takes this node's mail.")
    log: Log = Field(default_factory=Log, description="What is logged to standard error.")

    @model_validator(mode="after")
    def _upload_stage(self) -> "Settings":
        if self.uploads.stage not in self.node.stages:
            raise ValueError(f"uploads.stage: {self.uploads.stage} is not one of node.stages")
        for group, grant in self.directory.groups.items():
            for stage in parse_grant(grant)[1]:
                if stage not in self.node.stages:
                    raise ValueError(f"directory.groups: {group}: {stage} is not one of node.stages")
        return self


SECRETS = {
    "admin.password",
    "database.url",
    "directory.bind_password",
    "http.download_password",
    "mail.password",
}  #: never shown as they are
