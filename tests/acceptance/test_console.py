"""/console without a browser: the files, their headers, and what the scripts must not use."""

import re

import pytest

from devstack.processes import ROOT
from devstack.stack import Stack
from tests.support.client import ApiClient

FOLDER = ROOT / "api" / "console"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")
TYPES = {"css": "text/css", "js": "javascript", "svg": "image/svg+xml"}
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "img-src": "'self'", "form-action": "'none'", "frame-ancestors": "'none'", "base-uri": "'none'",
}  # fmt: skip


@pytest.fixture
def visitor(stack: Stack) -> ApiClient:
    """A caller without a token: the page itself holds no data."""
    return ApiClient(stack.api_url, token="")


def test_the_page_has_a_strict_policy_and_is_not_cached(visitor: ApiClient) -> None:
    page = visitor.call("GET", "/console")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    rules = (
        rule.strip().split(" ", 1) for rule in page.headers["Content-Security-Policy"].split(";")
    )
    assert dict(rules) == POLICY
    assert 'data-auth="dev"' in page.text


def test_the_page_loads_only_its_own_files(visitor: ApiClient) -> None:
    page = visitor.call("GET", "/console").text
    loaded = set(re.findall(r'(?:src|href)="/console/([^"]+)', page))
    assert loaded
    assert loaded < set(FILES)
    assert re.findall(r'(?:src|href)="(?!/console/|#)', page) == []
    for name in FILES:
        answer = visitor.call("GET", f"/console/{name}")
        assert answer.status_code == 200
        assert TYPES[name.rpartition(".")[2]] in answer.headers["Content-Type"]
        assert answer.headers["Cache-Control"] == "no-cache"
        for module in re.findall(r'from "\./([^"]+)"', answer.text):
            assert module in FILES


@pytest.mark.parametrize(
    "path", ["/console/", "/console/..%2fauth.py", "/console/x.js", "/console/a/b"]
)
def test_no_other_path_is_served(path: str, visitor: ApiClient) -> None:
    answer = visitor.call("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (404, "RESOURCE_NOT_FOUND")


def test_no_script_builds_html_or_stores_data() -> None:
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage"
        r"|sessionStorage|indexedDB|document\.cookie|https?://[^/?\\]"
    )
    for path in FOLDER.glob("*.js"):
        assert banned.findall(path.read_text()) == [], path.name
