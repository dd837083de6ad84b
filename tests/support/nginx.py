"""An nginx in front of a stack, with the configuration of ops/ and nginx's defaults."""

import getpass
import os
import shutil
from pathlib import Path

from devstack.ports import free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.stack import Stack, answers

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/opt/homebrew/bin")
INSTALL_HINT = "nginx is not installed (apt install nginx-light)"
START_SECONDS = 20.0

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx(Process):
    """An nginx in front of a stack's two web processes; all its files are in one directory."""

    def __init__(self, directory: Path, stack: Stack) -> None:
        port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        site = (ROOT / "ops" / "nginx" / "takeone.conf").read_text()
        addresses = {"listen 80;": f"listen 127.0.0.1:{port};"}
        for number, web in enumerate(stack.webs, 1):
            addresses[f"10.0.0.{number}:8000"] = f"127.0.0.1:{web.port}"
        for original, replacement in addresses.items():
            assert site.count(original) == 1, original
            site = site.replace(original, replacement)
        (directory / "takeone.conf").write_text(site)
        (directory / "nginx.conf").write_text(
            f"user {getpass.getuser()};\npid {directory}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n"
            + "".join(f"{name}_temp_path {directory}/{name};\n" for name in _TEMPORARY)
            + f"include {directory}/takeone.conf;\n}}\n"
        )
        settings = ["-e", "stderr", "-g", "daemon off; error_log stderr;"]
        super().__init__(
            "nginx",
            [PROGRAM or "nginx", *settings, "-c", f"{directory}/nginx.conf"],
            environment=clean_environment({}),
            log_path=directory / "nginx.log",
            port=port,
        )

    def start(self) -> None:
        """Start it, and wait until it forwards a request to the service."""
        super().start()
        self.wait_until(lambda: answers(f"{self.url}/healthz"), START_SECONDS, "nginx answers")
