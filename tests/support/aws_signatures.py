"""Checks AWS Signature Version 4 by the published algorithm, independently of botocore."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)"
    r"/aws4_request), ?SignedHeaders=(?P<signed>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


def problem_of(
    method: str, url: str, headers: Mapping[str, str], body: bytes, secrets: Mapping[str, str]
) -> str | None:
    """Return AWS's error name for a request's signature; None if the signature is valid."""
    given = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    match = _AUTHORIZATION.fullmatch(given.get("authorization", ""))
    if match is None:
        return "MissingAuthenticationTokenException"
    if match["key"] not in secrets:
        return "UnrecognizedClientException"
    names = match["signed"].split(";")
    if not {"host", "x-amz-date"} <= set(names):
        return "IncompleteSignatureException"
    expected = signature(
        method,
        url,
        {name: given[name] for name in names},
        body,
        match["scope"],
        secrets[match["key"]],
    )
    is_valid = hmac.compare_digest(expected, match["signature"])
    return None if is_valid else "InvalidSignatureException"


def signature(
    method: str, url: str, signed: Mapping[str, str], body: bytes, scope: str, secret: str
) -> str:
    """Return a request's signature; `scope` is day/region/service/aws4_request."""
    parts = urlsplit(url)
    query = sorted(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    canonical = "\n".join(
        [
            method,
            parts.path or "/",
            "&".join(query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            ";".join(sorted(signed)),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", signed["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
