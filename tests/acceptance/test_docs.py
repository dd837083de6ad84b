"""/docs without a browser: the page works without the internet."""

import re
from concurrent.futures import ThreadPoolExecutor

from devstack.stack import Stack
from tests.conftest import NewStack
from tests.support.client import ApiClient

KINDS = {"css": "text/css", "js": "javascript", "svg": "image/svg+xml", "yaml": "application/yaml"}


def test_the_page_and_everything_it_loads_come_from_the_service(stack: Stack) -> None:
    visitor = ApiClient(stack.api_url, token="")
    page = visitor.call("GET", "/docs")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(loaded) >= 3
    script = visitor.call("GET", "/docs/start.js").text
    loaded += re.findall(r"url: \"([^\"]+)", script)
    assert "/openapi.yaml" in loaded
    for path in loaded:
        assert re.match(r"/[^/]", path), path  # a path on this host, not another host
        asset = visitor.call("GET", path)
        assert asset.status_code == 200, path
        assert KINDS[path.rpartition(".")[2]] in asset.headers["Content-Type"], path
        assert len(asset.content) > 50


def test_the_policy_allows_no_other_host(stack: Stack) -> None:
    visitor = ApiClient(stack.api_url, token="")
    policy = visitor.call("GET", "/docs").headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";") if rule.strip())
    assert rules.get("default-src") in ("'self'", "'none'")
    allowed = {source for sources in rules.values() for source in sources.split()}
    assert allowed <= {"'self'", "'none'", "data:", "'unsafe-inline'"}
    style = visitor.call("GET", "/docs/swagger-ui.css").text
    assert re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", style) == []


def test_many_first_callers_of_the_specification_are_all_answered(new_stack: NewStack) -> None:
    """Parsing it takes a while, and is done once for all of them."""
    callers = 100
    with new_stack(workers=0) as fresh, ThreadPoolExecutor(callers) as pool:
        visitor = ApiClient(fresh.api_url, token="")
        calls = [pool.submit(visitor.call, "GET", "/openapi.json") for _ in range(callers)]
        assert {call.result().status_code for call in calls} == {200}
