"""Every route of the node in one list, and the application made of them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import tornado.web
from tornado.httputil import HTTPServerRequest
from tornado.routing import PathMatches, Rule

from . import (
    accounts,
    directory,
    health,
    hooks,
    mdm,
    nodes,
    notifications,
    packages,
    peer,
    peers,
    sessions,
    system,
    uploads,
    work,
)
from .app import App
from .base import NotFoundHandler
from .content import DownloadHandler
from .openapi import DocsHandler, OpenApiHandler

_PACKAGE = r"/api/v1/packages/([^/]+)"

API: list[tuple[str, type[tornado.web.RequestHandler]]] = [
    (r"/api/v1/about", system.AboutHandler),
    (r"/api/v1/system", system.SystemHandler),
    (r"/api/v1/system/throughput", system.ThroughputHandler),
    (r"/api/v1/scrub", system.ScrubHandler),
    (r"/api/v1/events.csv", system.EventsExportHandler),
    (r"/api/v1/settings", system.SettingsHandler),
    (r"/api/v1/events", system.EventsHandler),
    (r"/api/v1/packages", packages.PackagesHandler),
    (_PACKAGE, packages.PackageHandler),
    (_PACKAGE + r"/install-manifest", packages.InstallManifestHandler),
    (_PACKAGE + r"/manifest", packages.ManifestHandler),
    (_PACKAGE + r"/verify", packages.VerifyHandler),
    (_PACKAGE + r"/versions", packages.VersionsHandler),
    (_PACKAGE + r"/restore", packages.RestoreHandler),
    (r"/api/v1/uploads", uploads.UploadsHandler),
    (r"/api/v1/uploads/([0-9a-f]{32})", uploads.UploadHandler),
    (r"/api/v1/peers", peers.PeersHandler),
    (r"/api/v1/peers/invites", peers.InvitesHandler),
    (r"/api/v1/peers/invites/([^/]+)", peers.InviteHandler),
    (r"/api/v1/peers/join", peers.JoinHandler),
    (r"/api/v1/peers/([^/]+)", peers.PeerHandler),
    (r"/api/v1/nodes", nodes.NodesHandler),
    (r"/api/v1/nodes/([^/]+)", nodes.NodeHandler),
    (r"/api/v1/transfers", work.TransfersHandler),
    (r"/api/v1/transfers/([^/]+)", work.TransferHandler),
    (r"/api/v1/transfers/([^/]+)/(retry|cancel|prioritize)", work.TransferActionHandler),
    (r"/api/v1/jobs", work.JobsHandler),
    (r"/api/v1/jobs/([^/]+)", work.JobHandler),
    (r"/api/v1/jobs/([^/]+)/(retry|cancel|prioritize)", work.JobActionHandler),
    (r"/api/v1/users", accounts.UsersHandler),
    (r"/api/v1/users/([^/]+)", accounts.UserHandler),
    (r"/api/v1/users/([^/]+)/sessions", sessions.UserSessionsHandler),
    (r"/api/v1/sessions", sessions.SessionsHandler),
    (r"/api/v1/sessions/([0-9a-f]{64})", sessions.SessionHandler),
    (r"/api/v1/directory", directory.DirectoryHandler),
    (r"/api/v1/directory/test", directory.DirectoryTestHandler),
    (r"/api/v1/tokens", accounts.TokensHandler),
    (r"/api/v1/tokens/([^/]+)", accounts.TokenHandler),
    *mdm.ROUTES,
    (r"/api/v1/destinations", notifications.DestinationsHandler),
    (r"/api/v1/destinations/([^/]+)", notifications.DestinationHandler),
    (r"/api/v1/destinations/([^/]+)/test", notifications.DestinationTestHandler),
    (r"/api/v1/destinations/([^/]+)/rotate", notifications.DestinationRotateHandler),
    (r"/api/v1/deliveries", notifications.DeliveriesHandler),
    (r"/api/v1/deliveries/([^/]+)", notifications.DeliveryHandler),
    (r"/api/v1/deliveries/([^/]+)/resend", notifications.DeliveryResendHandler),
    (r"/api/v1/openapi.json", OpenApiHandler),
    (r"/api/v1/docs", DocsHandler),
]


class MethodMatches(PathMatches):
    """A path, for some methods: Tornado chooses by class whether a body streams, so files have classes of their own."""

    def __init__(self, path: str, *methods: str) -> None:
        super().__init__(path)
        self._methods = methods

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Match path and method."""
        return super().match(request) if request.method in self._methods else None


def routes(context: str) -> list[Any]:
    """All routes for programs. `context` is the path that an MDM puts before /Packages/, or ""."""
    downloads = [prefix + r"/[Pp]ackages/([^/]+)" for prefix in dict.fromkeys(("", re.escape(context)))]
    misplaced: list[tuple[str, Any]] = [(r"/api/v1/packages/?", uploads.MisplacedAtPackages)]
    misplaced += [(path, uploads.MisplacedAtDownloads) for path in downloads]
    return [
        Rule(MethodMatches(_PACKAGE, "PUT"), uploads.PackagePutHandler),
        Rule(MethodMatches(_PACKAGE, "POST"), uploads.MisplacedAtPackage),
        *(Rule(MethodMatches(path, "PUT", "POST"), handler) for path, handler in misplaced),
        *API,
        *peer.ROUTES,
        *hooks.ROUTES,
        *health.ROUTES,
        *((path, DownloadHandler) for path in downloads),
    ]


def make_application(
    app: App, *, log_function: Callable[[Any], None], pages: Sequence[Any] = ()
) -> tornado.web.Application:
    """The Tornado application of a node; `pages` are the routes for people."""
    return tornado.web.Application(
        [*routes(app.settings.http.context), *pages],
        app=app,
        default_handler_class=NotFoundHandler,
        log_function=log_function,
        compress_response=False,
    )
