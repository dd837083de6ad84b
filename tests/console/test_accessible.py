"""The pages by keyboard and by axe, which looks for what a screen reader or a weak eye cannot use."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Keys

from tests.console.conftest import Console
from tests.console.night import Night
from tests.openapi.test_openapi import install, node_version

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def axe() -> str:
    """The checker's own script."""
    if shutil.which("npm") is None or node_version() < (20, 19):
        pytest.skip("it needs npm and Node.js 20.19 or newer")
    install(HERE)
    return (HERE / "node_modules/axe-core/axe.min.js").read_text()


def findings(console: Console, axe: str) -> list[str]:
    """What axe has to say of the page as it is, incomplete checks left out."""
    console.driver.execute_script(axe)
    found: dict[str, Any] = console.driver.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
    )
    return [
        f"{each['id']}: {node['html']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    """The colours that the reader prefers."""
    return str(request.param)


def test_axe_finds_nothing(scheme: str, olga: Console, night: Night, axe: str) -> None:
    handle = night.failed(name="Interview 7", metadata={"language": "fi"})
    night.unknown()
    olga.prefer(scheme)
    pages = {
        "/": ".tile",
        "/jobs?view=failed": "li.row",
        f"/jobs/{handle.id}": ".timeline li",
        "/retries": "form",
        "/nowhere": "h1",
    }
    for place, awaited in pages.items():
        olga.go(place).see(awaited)
        assert findings(olga, axe) == [], place
    olga.go(f"/jobs/{night.unknown().id}").click("#act-cancel")
    olga.see("dialog.act")
    assert findings(olga, axe) == []
    olga.load("/try")
    assert findings(olga, axe) == [], "the sign-in"
    olga.sign_in("ed", "editor,operator")
    olga.see("form[aria-label='New job']")
    assert findings(olga, axe) == []
    client = night.job("ed").client
    olga.go(f"/try/{client.get('/jobs').json()['items'][0]['id']}").see("#trial-run")
    assert findings(olga, axe) == []


def test_all_can_be_done_by_keyboard(olga: Console, night: Night) -> None:
    handle = night.unknown()
    olga.load(f"/jobs/{handle.id}")
    olga.press(Keys.HOME, Keys.SHIFT, Keys.END, Keys.SHIFT, "kim", Keys.ENTER)
    olga.see("#act-cancel")
    olga.driver.execute_script("document.activeElement.blur()")
    olga.press(Keys.TAB)
    assert olga.focused().get_attribute("id") == "skip"
    olga.press(Keys.ENTER)
    assert olga.focused().get_attribute("id") == "main"
    for _ in range(12):
        olga.press(Keys.TAB)
        if olga.focused().get_attribute("id") == "act-cancel":
            break
    olga.press(Keys.ENTER)
    olga.see("dialog.act h2", "Cancel the job?")
    assert olga.focused().get_attribute("name") == "reason"
    olga.press(Keys.TAB, Keys.ENTER)
    olga.see("dialog.act [role=status]", "Give a reason first")
    assert olga.focused().get_attribute("name") == "reason"
    olga.press(Keys.ESCAPE)
    olga.wait(lambda: not olga.all("dialog.act"), "the question is closed")
    assert olga.focused().get_attribute("id") == "act-cancel"
    assert handle.status == "UPLOADED"
