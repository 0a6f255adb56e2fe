"""The application of the fake."""

import tornado.web

from . import classic, cloud, packages, points, signing_in
from .base import Handler
from .control import ControlHandler, FileHandler
from .sender import Sender
from .state import State


class NothingHandler(Handler):
    """Calls that there are not."""

    open_to_all = True

    def get(self) -> None:
        self.fail(404)

    post = put = patch = delete = get


def make_app(state: State) -> tornado.web.Application:
    """The application over a state."""
    return tornado.web.Application(
        [
            (r"/control/upload/(.+)", FileHandler),
            (r"/control/(\w+)", ControlHandler),
            *signing_in.ROUTES,
            *packages.ROUTES,
            *cloud.ROUTES,
            *points.ROUTES,
            *classic.routes(state),
        ],
        default_handler_class=NothingHandler,
        state=state,
        sender=Sender(state),
        log_function=lambda _: None,
    )
