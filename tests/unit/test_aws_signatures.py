"""The signer for AWS, checked by a verifier that is itself checked by AWS's published test vectors."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devstack.ports import HOST
from orchestrators.aws import AwsSigner
from orchestrators.base import Request
from tests.support.aws_signatures import problem_of

# The credentials and the time of AWS's test suite for Signature Version 4.
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
FORM = {**SUITE, "content-type": "application/x-www-form-urlencoded"}
VECTORS = {
    "get-vanilla": ("GET", "", SUITE, b"",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-vanilla-query-order-key-case": ("GET", "?Param2=value2&Param1=value1", SUITE, b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    "post-vanilla": ("POST", "", SUITE, b"",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "post-x-www-form-urlencoded": ("POST", "", FORM, b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
}  # fmt: skip

URL = "https://states.eu-central-1.amazonaws.com/"
HEADERS = {
    "Content-Type": "application/x-amz-json-1.0",
    "X-Amz-Target": "AWSStepFunctions.Describe",
}
REQUEST = Request("POST", URL, b'{"name":"run-1"}', HEADERS)


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_the_verifier_accepts_the_published_vectors(vector: tuple) -> None:
    method, query, headers, body, signature = vector
    signed = ";".join(sorted(headers))
    scope = f"{KEY}/20150830/us-east-1/service/aws4_request"
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}"
    )
    signed_headers = {**headers, "Authorization": authorization}
    url, secrets = f"https://example.amazonaws.com/{query}", {KEY: SECRET}
    assert problem_of(method, url, signed_headers, body, secrets) is None
    changed = body + b" "
    assert problem_of(method, url, signed_headers, changed, secrets) == "InvalidSignatureException"


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:5099/", "https://vpce.example:8443/"])
def test_signed_requests_verify_and_changed_ones_do_not(url: str) -> None:
    request = Request("POST", url, REQUEST.body, HEADERS)
    signed = AwsSigner(f"{KEY}:{SECRET}", "eu-central-1", "states")(request)
    headers = {**(signed.headers or {}), "Host": url.split("/")[2]}
    assert signed.body == REQUEST.body
    assert headers["X-Amz-Target"] == HEADERS["X-Amz-Target"]
    assert "/eu-central-1/states/aws4_request" in headers["Authorization"]
    assert problem_of("POST", url, headers, signed.body, {KEY: SECRET}) is None
    for changed in ({"X-Amz-Target": "AWSStepFunctions.Stop"}, {"X-Amz-Date": "20260101T000000Z"}):
        assert problem_of("POST", url, headers | changed, signed.body, {KEY: SECRET}) is not None
    assert problem_of("POST", url, headers, b"{}", {KEY: SECRET}) == "InvalidSignatureException"
    assert problem_of("POST", url, headers, signed.body, {KEY: "another"}) is not None


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without credentials for AWS."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_without_credentials_those_of_the_environment_are_used(
    no_aws: pytest.MonkeyPatch,
) -> None:
    no_aws.setenv("AWS_ACCESS_KEY_ID", KEY)
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    no_aws.setenv("AWS_SESSION_TOKEN", "a-session-token")
    signed = AwsSigner("", "eu-central-1", "states")(REQUEST)
    headers = {**(signed.headers or {}), "Host": "states.eu-central-1.amazonaws.com"}
    assert headers["X-Amz-Security-Token"] == "a-session-token"
    assert "x-amz-security-token" in headers["Authorization"]
    assert problem_of("POST", URL, headers, signed.body, {KEY: SECRET}) is None


def test_a_request_is_left_unsigned_without_any_credentials(
    no_aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sign = AwsSigner("", "eu-central-1", "states")
    assert sign(REQUEST) == REQUEST
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    assert "Authorization" in (AwsSigner("", "eu-central-1", "states")(REQUEST).headers or {})
    no_aws.setenv("AWS_PROFILE", "missing")
    assert AwsSigner("", "eu-central-1", "states")(REQUEST) == REQUEST


def test_threads_do_not_wait_in_turn_for_credentials_that_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STS takes connections and never answers: each thread would wait its whole time again."""
    token = tmp_path / "token"
    token.write_text("web-identity")
    with socket.create_server((HOST, 0)) as sts, ThreadPoolExecutor(5) as threads:
        for name, value in {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/take-one",
            "AWS_ENDPOINT_URL_STS": f"http://{HOST}:{sts.getsockname()[1]}",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        signer = AwsSigner("", "eu-central-1", "states")
        began = time.monotonic()
        unsigned = Request("POST", "https://states.example/", b"{}")
        assert list(threads.map(signer, [unsigned] * 5)) == [unsigned] * 5
        assert 4 < time.monotonic() - began < 15
