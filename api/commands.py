"""Commands for developers and operators: `takeone token`, `takeone jobs show` and `takeone demo`."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import jwt
import orjson
from flask.cli import AppGroup

from api.auth import EDITOR_ROLE
from api.context import services
from api.shapes import event_shape, job_shape
from settings import Settings, SettingsError, load_settings, split_list
from store.errors import StoreError

_CHECKOUT = Path(__file__).resolve().parent.parent
_MOST_EVENTS = 1_000

jobs = AppGroup("jobs", help="See jobs, whoever they belong to.")


@jobs.command("show")
@click.argument("job_id")
def show_job(job_id: str) -> None:
    """Show a job and its trail, as JSON."""
    try:
        snapshot = services().jobs.load(job_id)
        events, _ = services().jobs.trail(job_id, 0, _MOST_EVENTS)
    except StoreError as error:
        raise click.ClickException(f"the store does not serve: {error}") from error
    if snapshot is None:
        raise click.ClickException(f"there is no job {job_id}")
    job = snapshot.record.job
    shown = {**job_shape(snapshot.record), "events": [event_shape(job, each) for each in events]}
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


@click.command("token")
@click.argument("user")
@click.option("--role", default=EDITOR_ROLE, show_default=True)
@click.option("--minutes", type=click.IntRange(1, 1440), default=60, show_default=True)
def token(user: str, role: str, minutes: int) -> None:
    """Make a token for USER, where the service itself holds the key: in development, or with HS256."""
    try:
        settings = load_settings()
    except SettingsError as error:
        raise click.ClickException(f"the settings are not complete:\n{error}") from None
    if settings.auth_mode == "dev":
        click.echo(f"test:{user}:{role}")
    else:
        click.echo(_minted(settings, user, role, datetime.now(UTC) + timedelta(minutes=minutes)))


def _minted(settings: Settings, user: str, role: str, until: datetime) -> str:
    key = settings.jwt_key.get_secret_value()
    shared = [name for name in split_list(settings.jwt_algorithms) if name.startswith("HS")]
    if not shared or not key or "-----BEGIN" in key:
        raise click.ClickException(
            "tokens are the issuer's to make: the service holds no shared key "
            "(TAKEONE_JWT_KEY with TAKEONE_JWT_ALGORITHMS=HS256), only what verifies his"
        )
    claims = {
        "sub": user,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": datetime.now(UTC),
        "exp": until,
        settings.jwt_roles_claim: [role],
    }
    return jwt.encode(claims, key, shared[0])


@click.command("demo")
def demo() -> None:
    """Watch one video go from upload to draft, on a stack of its own that ends with the demo."""
    if not (_CHECKOUT / "demo" / "__main__.py").exists():
        raise click.ClickException("the demo is part of the checkout: clone it, then `make demo`")
    sys.exit(subprocess.call([sys.executable, "-m", "demo"], cwd=_CHECKOUT))
