"""Every address of the web interface."""

from typing import Any

from .assets import AssetHandler
from .audit import AuditPage
from .directory import DirectoryPage
from .live import LiveHandler
from .mdm import MdmPage, MdmServerPage
from .network import NetworkPage, ReplicationPage
from .node import AboutPage, SettingsPage
from .notifications import DeliveriesPage, DestinationPage, NotificationsPage
from .overview import OverviewHandler
from .packages import PackagePage, PackagesPage, UploadPage
from .pages import MissingPageHandler, RootHandler
from .people import SessionsPage, TokensPage, UsersPage
from .signing_in import PasswordHandler, SignInHandler, SignOutHandler
from .work import JobsPage, TransfersPage

PAGES: list[tuple[str, Any]] = [
    (r"/ui/", OverviewHandler),
    (r"/ui/packages", PackagesPage),
    (r"/ui/packages/([^/]+)", PackagePage),
    (r"/ui/upload", UploadPage),
    (r"/ui/network", NetworkPage),
    (r"/ui/replication", ReplicationPage),
    (r"/ui/transfers", TransfersPage),
    (r"/ui/jobs", JobsPage),
    (r"/ui/mdm", MdmPage),
    (r"/ui/mdm/([^/]+)", MdmServerPage),
    (r"/ui/notifications", NotificationsPage),
    (r"/ui/notifications/([^/]+)", DestinationPage),
    (r"/ui/deliveries", DeliveriesPage),
    (r"/ui/users", UsersPage),
    (r"/ui/directory", DirectoryPage),
    (r"/ui/tokens", TokensPage),
    (r"/ui/sessions", SessionsPage),
    (r"/ui/audit", AuditPage),
    (r"/ui/settings", SettingsPage),
    (r"/ui/about", AboutPage),
    (r"/ui/sign-in", SignInHandler),
    (r"/ui/sign-out", SignOutHandler),
    (r"/ui/password", PasswordHandler),
]

ROUTES: list[tuple[str, Any]] = [
    (r"/", RootHandler),
    (r"/ui", RootHandler),
    (r"/ui/static/([0-9a-f]+)/(.+)", AssetHandler),
    (r"/ui/live", LiveHandler),
    *PAGES,
    (r"/ui/(.*)", MissingPageHandler),
]
