"""Authentication: development tokens, and JWTs with a shared key, a public key or a JWKS URL."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import requests

from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance.raw_http import ask, assert_refused, of
from tests.acceptance.tokens import (
    AUDIENCE,
    ISSUER,
    OTHER_RSA_KEY,
    RSA_KEY,
    SHARED_KEY,
    Issuer,
    claims,
    handmade,
    public_pem,
    signed,
)
from tests.conftest import NewStack
from tests.support.behaviours import refuse
from tests.support.client import ApiClient

JWT_SETTINGS = {
    "TAKEONE_AUTH_MODE": "jwt",
    "TAKEONE_JWT_ISSUER": ISSUER,
    "TAKEONE_JWT_AUDIENCE": AUDIENCE,
}
ALGORITHMS = {"shared key": "HS256", "public key": "RS256", "JWKS": "RS256"}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """An issuer whose key set is not served yet."""
    return Issuer()


@pytest.fixture(scope="module")
def urls(
    new_stack: NewStack, redis_server: RedisServer, issuer: Issuer
) -> Iterator[dict[str, str]]:
    """The addresses of three services that trust the same issuer, each by another setting."""
    ways = {
        "shared key": {"TAKEONE_JWT_KEY": SHARED_KEY, "TAKEONE_JWT_ALGORITHMS": "HS256"},
        "public key": {"TAKEONE_JWT_KEY": public_pem(RSA_KEY)},
        "JWKS": {"TAKEONE_JWT_JWKS_URL": issuer.url},
    }
    with ExitStack() as stacks:
        addresses = {}
        for way, settings in ways.items():
            stack = new_stack(redis=redis_server, workers=0, **JWT_SETTINGS, **settings)
            addresses[way] = stacks.enter_context(stack).api_url
        yield addresses


@pytest.fixture(params=ALGORITHMS)
def way(request: pytest.FixtureRequest, issuer: Issuer) -> Iterator[str]:
    """Each way to trust the issuer, whose key set is served during the test."""
    with issuer:
        yield str(request.param)


def projects_status(url: str, token: str) -> int:
    """The status of GET /projects with a token; a refusal must have the contract's error body."""
    answer = of(ApiClient(url, token=token).get("/projects"))
    if answer.status != 200:
        assert_refused(answer)
    return answer.status


def test_a_valid_token_acts_as_its_subject(way: str, urls: dict[str, str]) -> None:
    algorithm = ALGORITHMS[way]
    user = str(uuid4())
    carol = ApiClient(urls[way], token=signed(algorithm, claims(sub=user)))
    project_id = carol.create_project().json()["id"]
    again = ApiClient(urls[way], token=signed(algorithm, claims(sub=user, jti="another token")))
    assert [project["id"] for project in again.get("/projects").json()["items"]] == [project_id]
    other = ApiClient(urls[way], token=signed(algorithm, claims(sub=user + "x")))
    assert other.get(f"/projects/{project_id}").status_code == 404


def forged(way: str) -> dict[str, str]:
    """Tokens that must be refused, by what is wrong with them."""
    algorithm, now = ALGORITHMS[way], time.time()
    good = signed(algorithm, claims())
    head, body, signature = good.split(".")
    other_key = SHARED_KEY[::-1] if algorithm == "HS256" else OTHER_RSA_KEY
    changed = {
        "expired": {"exp": now - 60},
        "not yet valid": {"nbf": now + 60},
        "issued in the future": {"iat": now + 60},
        "of another issuer": {"iss": "https://issuer.example"},
        "for another audience": {"aud": "take-two"},
        "for other audiences": {"aud": ["take-two", "take-three"]},
        "with an empty subject": {"sub": ""},
        "with a subject that is too long": {"sub": "x" * 257},
        **{f"without {name}": {name: None} for name in ("sub", "exp", "iss", "aud")},
    }
    return {
        "signed by another key": signed(algorithm, claims(), other_key),
        "without a signature": f"{head}.{body}.",
        "with another body": f"{head}.{signed(algorithm, claims(sub='root')).split('.')[1]}.{signature}",
        "cut off": good[:-4],
        "with a fourth part": good + ".x",
        "junk": "junk",
        "dots": "..",
        "a development token": "test:carol:editor",
        "not ASCII": "ä.ö.ü",
        "a list": handmade({"alg": algorithm}, []),
        **{
            f"alg {alg}": handmade({"alg": alg, "typ": "JWT"}, claims())
            for alg in ("none", "None", "NONE", "nOnE", "", "HS256", "ES256", "no such")
        },
        "the public key as a shared key": handmade(
            {"alg": "HS256", "kid": "key-1"}, claims(), public_pem(RSA_KEY).encode()
        ),
        "an embedded key": signed(
            "RS256", claims(), OTHER_RSA_KEY, jwk={"kty": "RSA"}, jku="http://127.0.0.1:9/"
        ),
        "a key id that is not a string": handmade({"alg": algorithm, "kid": {"a": 1}}, claims()),
        **{what: signed(algorithm, claims(**change)) for what, change in changed.items()},
    }


def test_an_invalid_token_is_a_401(way: str, urls: dict[str, str]) -> None:
    for what, token in forged(way).items():
        client = {"Authorization": f"Bearer {token}".encode()}
        answer = ask(urls[way], "GET", "/api/v1/projects", client)
        assert (what, answer.status) == (what, 401)
        assert_refused(answer)


@pytest.mark.parametrize(
    "change",
    [
        {"exp": "4102444800"}, {"exp": float("inf")}, {"exp": float("nan")}, {"exp": 10**400},
        {"exp": [1]}, {"sub": 7}, {"sub": "\ud800"}, {"sub": "\x00"}, {"aud": {}},
        {"iss": [ISSUER]}, {"nbf": float("inf")}, {"roles": {"editor": True}},
        {"roles": [["editor"]]}, {"roles": "\ud800"},
    ],
    ids=lambda change: str(change)[:30],
)  # fmt: skip
def test_claims_of_a_wrong_type_are_never_a_500(
    change: dict[str, object], urls: dict[str, str]
) -> None:
    token = handmade({"alg": "HS256"}, claims(**change), SHARED_KEY.encode())
    assert projects_status(urls["shared key"], token) in (200, 401, 403)


def test_a_small_clock_difference_is_tolerated(way: str, urls: dict[str, str]) -> None:
    now = time.time()
    for body in (claims(exp=now - 3), claims(nbf=now + 5), claims(iat=now + 5)):
        assert projects_status(urls[way], signed(ALGORITHMS[way], body)) == 200


@pytest.mark.parametrize("roles", [["editor"], ["viewer", "editor"], "editor", "viewer editor"])
def test_roles_may_be_a_list_or_a_string(roles: object, way: str, urls: dict[str, str]) -> None:
    assert projects_status(urls[way], signed(ALGORITHMS[way], claims(roles=roles))) == 200


@pytest.mark.parametrize("roles", [None, [], "", ["viewer"], "editors", ["Editor"], 7])
def test_without_the_editor_role_a_resource_is_404_and_a_collection_403(
    roles: object, way: str, urls: dict[str, str]
) -> None:
    algorithm, user = ALGORITHMS[way], str(uuid4())
    carol = ApiClient(urls[way], token=signed(algorithm, claims(sub=user)))
    project_id = carol.create_project().json()["id"]
    job_id = carol.create_job(project_id).json()["id"]
    visitor = ApiClient(urls[way], token=signed(algorithm, claims(sub=user, roles=roles)))
    for answer in (visitor.get("/projects"), visitor.get("/jobs"), visitor.create_project()):
        assert_refused(of(answer), 403)
    for answer in (
        visitor.get(f"/projects/{project_id}"),
        visitor.create_job(project_id),
        visitor.job(job_id),
        visitor.run(job_id),
        visitor.cancel(job_id),
    ):
        assert_refused(of(answer), 404)


def is_503(answer: requests.Response) -> bool:
    """Whether the answer is a 503 with Retry-After; it must have come within 3 s."""
    assert answer.elapsed.total_seconds() < 3
    code, retry_after = answer.json()["code"], answer.headers.get("Retry-After")
    return (answer.status_code, code, retry_after) == (503, "SERVICE_UNAVAILABLE", "1")


def test_while_the_signing_keys_are_unavailable_calls_are_503(
    issuer: Issuer, urls: dict[str, str], new_stack: NewStack
) -> None:
    good = issuer.default
    with new_stack(workers=0, TAKEONE_JWT_JWKS_URL=issuer.url, **JWT_SETTINGS) as fresh:
        carol = ApiClient(fresh.api_url, token=signed("RS256", claims()))
        assert is_503(carol.get("/projects"))
        issuer.default = refuse(500)
        with issuer:
            assert is_503(carol.get("/projects"))
            issuer.default = good
            wait_until(lambda: carol.get("/projects").status_code == 200, 20, "the keys are loaded")


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", "Basic dGVzdA==", "Basic test:alice:editor",
        "test:alice:editor", "Bearer test", "Bearer test:", "Bearer test:alice",
        "Bearer test::editor", "Bearer test:alice:", "Bearer TEST:alice:editor",
        "Bearer " + "test:" + "a" * 257 + ":editor",
    ],
)  # fmt: skip
def test_a_malformed_development_token_is_a_401(authorization: str | None, stack: Stack) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/api/v1/projects", f"/api/v1/jobs/{uuid4()}"):
        assert_refused(ask(stack.api_url, "GET", path, headers), 401)


def test_a_development_token_names_a_user_and_a_role(stack: Stack) -> None:
    statuses = {
        "test:alice:editor": 200,
        "test:a:b:c:editor": 200,
        "test:a b:editor": 200,
        "test:alice:viewer": 403,
        "test:alice:Editor": 403,
    }
    for token, status in statuses.items():
        headers = {"Authorization": f"bearer {token}".encode()}
        answer = ask(stack.api_url, "GET", "/api/v1/projects", headers)
        assert (token, answer.status) == (token, status)
