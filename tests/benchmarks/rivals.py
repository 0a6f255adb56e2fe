"""What people would use instead: nginx with curl and sha1sum, and an rsync daemon."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from .nodes import free_port

NGINX = """
daemon off; worker_processes auto; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  client_body_temp_path {root}/body; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 0; root {files};
    location /put/ {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""
RSYNC = """
use chroot = no
pid file = {root}/rsyncd.pid
[files]
path = {files}
read only = yes
"""


class Rival:
    """A server of another project, as a subprocess."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        if self.process.poll() is not None:
            raise RuntimeError(f"{command[0]} does not start")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(10)


def nginx(root: Path, files: Path) -> Rival:
    """An nginx that serves `files` and takes PUTs below `files`/put/."""
    root.mkdir(parents=True)
    port = free_port()
    config = root / "nginx.conf"
    text = NGINX.format(root=root, files=files, port=port)
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(user + text)
    return Rival([_need("nginx"), "-c", str(config), "-p", str(root)], port)


def rsync_daemon(root: Path, files: Path) -> Rival:
    """An rsync daemon over `files`."""
    root.mkdir(parents=True)
    port = free_port()
    config = root / "rsyncd.conf"
    config.write_text(RSYNC.format(root=root, files=files))
    command = ["--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}", f"--config={config}"]
    return Rival([_need("rsync"), *command], port)


def _need(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin")
    if found is None:
        raise SystemExit(f"{program} is needed for this benchmark: apt-get install {program}")
    return found
