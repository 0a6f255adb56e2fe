"""The object graph that handlers work with, put together by `bootstrap`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.jobs.runner import Runner
    from appliance.peering.identity import Identity
    from appliance.service.accounts import Accounts
    from appliance.service.anti_entropy import AntiEntropy
    from appliance.service.catalogue import Catalogue
    from appliance.service.departures import Departures
    from appliance.service.directory import Directory
    from appliance.service.events import Events
    from appliance.service.holdings import Holdings
    from appliance.service.mdm import MdmPort
    from appliance.service.metrics import Metrics
    from appliance.service.neighbourhood import Neighbourhood
    from appliance.service.nonces import Nonces
    from appliance.service.notifications import Notifications
    from appliance.service.packages import Packages
    from appliance.service.peers import Peers
    from appliance.service.records import Records
    from appliance.service.registration import Registrations
    from appliance.service.release_check import ReleaseCheck
    from appliance.service.replication import Replication
    from appliance.service.restore import Restore
    from appliance.service.scrub import Scrub
    from appliance.service.sessions import Sessions
    from appliance.service.system import System
    from appliance.service.throughput import Throughput
    from appliance.service.transfers import Transfers
    from appliance.service.trash import Trash
    from appliance.service.uploads import UploadService
    from appliance.service.verifying import Verifying
    from appliance.service.watchdog import Watchdog
    from appliance.store.blobs import BlobStore
    from appliance.store.ports import Store
    from config.settings import Settings


@dataclass(kw_only=True)
class App:
    """Everything a handler may ask for."""

    settings: Settings
    node_name: str
    node_url: str  #: the base URL that peers call, without a trailing slash
    download_url: str  #: below it devices find /Packages/
    store: Store
    identity: Identity
    blobs: BlobStore
    records: Records
    catalogue: Catalogue
    holdings: Holdings
    packages: Packages
    replication: Replication
    anti_entropy: AntiEntropy
    transfers: Transfers
    verifying: Verifying
    trash: Trash
    restore: Restore
    release_check: ReleaseCheck
    scrub: Scrub
    peers: Peers
    neighbourhood: Neighbourhood
    uploads: UploadService
    accounts: Accounts
    sessions: Sessions
    events: Events
    system: System
    metrics: Metrics
    throughput: Throughput
    registrations: Registrations
    departures: Departures
    nonces: Nonces
    watchdog: Watchdog
    notifications: Notifications
    runner: Runner | None  #: None where another process does the work
    now: Callable[[], int]
    directory: Directory | None = None  #: None where the settings name none
    mdm: MdmPort | None = None  #: None where there is no MDM bridge
