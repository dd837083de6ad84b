"""`takeone token`: a token for calling the API."""

from datetime import UTC, datetime, timedelta

import click
import jwt

from api.auth import EDITOR_ROLE, Authenticator
from cli.setup import settings_of
from domain.errors import Unauthorized
from settings import Settings, load_settings


@click.command("token")
@click.argument("user")
@click.option("--role", default=EDITOR_ROLE, show_default=True)
@click.option("--minutes", type=click.IntRange(1, 1440), default=60, show_default=True)
def token(user: str, role: str, minutes: int) -> None:
    """Make a token for USER, if the service itself holds the key: in development, or with HS256."""
    settings = settings_of(load_settings)
    made = (
        f"test:{user}:{role}"
        if settings.auth_mode == "dev"
        else _signed(settings, user, role, minutes)
    )
    try:
        Authenticator(settings).principal(f"Bearer {made}")
    except Unauthorized:
        raise click.UsageError("the service would refuse a token for this USER and role") from None
    click.echo(made)


def _signed(settings: Settings, user: str, role: str, minutes: int) -> str:
    shared = [name for name in settings.jwt_algorithms if name.startswith("HS")]
    if not shared:
        raise click.ClickException(
            "the issuer makes the tokens: the service holds no shared key (TAKEONE_JWT_KEY with "
            "TAKEONE_JWT_ALGORITHMS=HS256), only a key that verifies"
        )
    now = datetime.now(UTC)
    claims = {
        "sub": user,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + timedelta(minutes=minutes),
        settings.jwt_roles_claim: [role],
    }
    # The settings' own checks have made sure that the key fits the algorithm.
    return jwt.encode(claims, settings.jwt_key.get_secret_value(), shared[0])
