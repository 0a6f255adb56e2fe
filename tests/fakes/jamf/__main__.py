"""`python -m tests.fakes.jamf`: a Jamf Pro to try things with. It prints where it is, and ends with its input."""

import argparse
import asyncio
import json
import signal
import sys

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from .app import make_app
from .state import PACKAGE_DEFAULTS, State


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.jamf", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--version", default="11.30.1", help="of Jamf Pro")
    parser.add_argument("--cdn", default="JAMF_CLOUD", help="JAMF_CLOUD, AMAZON_S3 or NONE")
    parser.add_argument("--packages", type=int, default=0, help="records without files to begin with")
    parser.add_argument("--token-life", type=float, default=60.0, help="seconds")
    parser.add_argument("--attached", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    state = State(version=arguments.version, cdn=arguments.cdn)
    state.faults.token_life_s = arguments.token_life
    for number in range(arguments.packages):
        name = f"Filler-{number:05d}.pkg"
        state.packages[state.new_id()] = {**PACKAGE_DEFAULTS, "packageName": name, "fileName": name}
    sockets = bind_sockets(arguments.port, "127.0.0.1")
    server = HTTPServer(make_app(state), max_buffer_size=1 << 30, max_body_size=1 << 30)
    server.add_sockets(sockets)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.attached:
        loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.readline() == "" and stop.set())
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    print(
        json.dumps(
            {
                "url": url,
                "client_id": state.client_id,
                "client_secret": state.client_secret,
                "username": state.username,
                "password": state.password,
                "account": state.account,
            }
        ),
        flush=True,
    )
    await stop.wait()
    server.stop()


if __name__ == "__main__":
    asyncio.run(main())
