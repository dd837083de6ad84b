"""A private RabbitMQ: free ports, all files in one directory, nothing left after its stop."""

import base64
import hashlib
import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from devstack.ports import HOST, free_port
from devstack.processes import Process, clean_environment

# Debian's own wrapper in /usr/sbin would change the user and the directories.
PROGRAM = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin:/opt/homebrew/sbin")
START_SECONDS = 90.0

INSTALL_HINT = "rabbitmq-server is not installed (apt install rabbitmq-server)"


class RabbitMq(Process):
    """One node with its own port mapper; after a stop or kill it can be started again.

    Each stack has its own virtual host, so that none consumes another's messages.
    """

    def __init__(self, directory: Path, virtual_hosts: int = 1) -> None:
        names = [f"takeone{number}" for number in range(virtual_hosts)]
        port, mapper_port = free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "definitions.json").write_text(json.dumps(_definitions(names)))
        (directory / "rabbitmq.conf").write_text(
            f"log.console = true\nlog.file = false\nload_definitions = {directory}/definitions.json\n"
        )
        self._virtual_hosts = iter(names)
        (directory / "enabled_plugins").write_text("[].\n")
        environment = clean_environment(
            {
                "HOME": str(directory),  # for the Erlang cookie
                "ERL_EPMD_PORT": str(mapper_port),
                "ERL_EPMD_ADDRESS": HOST,
                "RABBITMQ_NODENAME": f"takeone{port}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": HOST,
                "RABBITMQ_NODE_PORT": str(port),
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
                "RABBITMQ_LOG_BASE": str(directory / "log"),
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_PID_FILE": str(directory / "pid"),
                # No busy waiting of schedulers: tests run on few cores.
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
            }
        )
        super().__init__(
            "rabbitmq",
            [PROGRAM or "rabbitmq-server"],
            environment=environment,
            log_path=directory / "rabbitmq.log",
            port=port,
        )
        # Otherwise the node would start one that outlives it.
        self._mapper = Process(
            "epmd",
            [shutil.which("epmd") or "epmd", "-port", str(mapper_port), "-address", HOST],
            environment=clean_environment({}),
            log_path=directory / "epmd.log",
            port=mapper_port,
        )

    def broker_url(self, port: int | None = None) -> str:
        """Return the URL of an unused virtual host; `port` is that of a proxy, if any."""
        return f"amqp://guest:guest@{HOST}:{port or self.port}/{next(self._virtual_hosts)}"

    def start(self) -> None:
        """Start the node, and wait until it accepts connections."""
        if not self._mapper.is_running:
            self._mapper.start()
        super().start()
        self.wait_until(self.answers, START_SECONDS, "RabbitMQ accepts connections")

    def answers(self) -> bool:
        """Return whether the node answers an AMQP client's header now."""
        try:
            with socket.create_connection((HOST, int(self.port or 0)), 1) as connection:
                connection.settimeout(1)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    def block_publishers(self, *, is_blocked: bool) -> None:
        """Have the node read nothing from publishers, as while its memory alarm is on; or read again."""
        share = "0.000001" if is_blocked else "0.6"
        control = str(Path(self.command[0]).with_name("rabbitmqctl"))
        subprocess.run(
            [control, "set_vm_memory_high_watermark", share],
            env=self.environment,
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
        )

    def stop(self) -> None:
        """Kill the node, whose data is not needed, and stop its port mapper."""
        self.kill()
        self._mapper.terminate()


def _definitions(virtual_hosts: list[str]) -> dict[str, Any]:
    user, salt = "guest", b"salt"
    password = base64.b64encode(salt + hashlib.sha256(salt + user.encode()).digest()).decode()
    everything = {"user": user, "configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [{"name": user, "password_hash": password, "tags": "administrator"}],
        "vhosts": [{"name": name} for name in virtual_hosts],
        "permissions": [{**everything, "vhost": name} for name in virtual_hosts],
    }
