"""Accessibility: axe finds no violation, and everything works by keyboard."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Keys

from tests.console.conftest import Console
from tests.console.job_factory import JobFactory
from tests.openapi.test_openapi import install, node_version

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    if shutil.which("npm") is None or node_version() < (20, 19):
        pytest.skip("needs npm and Node.js 20.19 or newer")
    install(HERE)
    return (HERE / "node_modules/axe-core/axe.min.js").read_text()


def violations(console: Console, axe: str) -> list[str]:
    """Return axe's violations on the page in its current state."""
    console.driver.execute_script(axe)
    found: dict[str, Any] = console.driver.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
    )
    return [
        f"{violation['id']}: {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(scheme: str, olga: Console, factory: JobFactory, axe: str) -> None:
    handle = factory.failed(name="Interview 7", metadata={"language": "fi"})
    factory.unknown()
    olga.set_color_scheme(scheme)
    pages = {
        "/": ".tile",
        "/jobs?view=failed": "li.row",
        f"/jobs/{handle.id}": ".timeline li",
        "/retries": "form",
        "/nowhere": "h1",
    }
    for path, selector in pages.items():
        olga.go(path).see(selector)
        assert violations(olga, axe) == [], path
    olga.go(f"/jobs/{factory.unknown().id}").click("#act-cancel")
    olga.see("dialog.act")
    assert violations(olga, axe) == []
    olga.load("/try")
    assert violations(olga, axe) == [], "the sign-in"
    olga.sign_in("ed", "editor,operator")
    olga.see("form[aria-label='New job']")
    assert violations(olga, axe) == []
    olga.go(f"/try/{factory.job('ed').id}").see("#trial-run")
    assert violations(olga, axe) == []


def test_the_focus_stays_on_the_page_after_an_act(olga: Console, factory: JobFactory) -> None:
    handle = factory.unknown()
    olga.go(f"/jobs/{handle.id}").click("#act-sent")
    olga.press("It is there", Keys.TAB, Keys.ENTER)
    olga.see("dialog.act [role=status]", "SENT")
    olga.wait(lambda: not olga.all("#act-sent"), "the page has the new state")
    olga.press(Keys.ENTER)
    olga.wait(lambda: not olga.all("dialog.act"), "the dialog is closed")
    assert olga.focused().get_attribute("id") == "main"


def test_the_focus_stays_on_the_page_when_its_button_is_gone(
    olga: Console, factory: JobFactory
) -> None:
    handle = factory.job()
    olga.go(f"/jobs/{handle.id}").see("#act-cancel")
    olga.driver.execute_script("document.getElementById('act-cancel').focus()")
    handle.client.cancel(handle.id)
    olga.wait(lambda: not olga.all("#act-cancel"), "the page has the new state")
    assert olga.focused().get_attribute("id") == "main"


def test_an_act_works_by_keyboard(olga: Console, factory: JobFactory) -> None:
    handle = factory.unknown()
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
    olga.press("   ", Keys.TAB, Keys.ENTER)
    olga.see("dialog.act [role=status]", "Give a reason first")
    assert olga.focused().get_attribute("name") == "reason"
    olga.press(Keys.ESCAPE)
    olga.wait(lambda: not olga.all("dialog.act"), "the dialog is closed")
    assert olga.focused().get_attribute("id") == "act-cancel"
    assert handle.status == "UPLOADED"
