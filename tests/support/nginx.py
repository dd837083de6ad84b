"""An nginx in front of a stack, as the file in ops/ sets it up; all else in it is nginx's default."""

import getpass
import os
import shutil
from pathlib import Path
from typing import Self

from devstack.ports import free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.stack import Stack, answers

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/opt/homebrew/bin")
INSTALL_HINT = "nginx is not installed (apt install nginx-light)"
START_SECONDS = 20.0

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx(Process):
    """One nginx before the two web processes of a stack. Everything of it lies in one directory."""

    def __init__(self, directory: Path, stack: Stack) -> None:
        port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        site = (ROOT / "ops" / "nginx" / "takeone.conf").read_text()
        addresses = {"listen 80;": f"listen 127.0.0.1:{port};"}
        for number, web in enumerate(stack.webs, 1):
            addresses[f"10.0.0.{number}:8000"] = f"127.0.0.1:{web.port}"
        for there, here in addresses.items():
            assert site.count(there) == 1, there
            site = site.replace(there, here)
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
        """Start it, and wait until a call gets through to the service."""
        super().start()
        self.wait_until(lambda: answers(f"{self.url}/healthz"), START_SECONDS, "nginx answers")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
