"""Every address of the web interface."""

from typing import Any

from .assets import AssetHandler
from .live import LiveHandler
from .overview import OverviewHandler
from .pages import MissingPageHandler, RootHandler
from .signing_in import PasswordHandler, SignInHandler, SignOutHandler

PAGES: list[tuple[str, Any]] = [
    (r"/ui/", OverviewHandler),
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
