"""Flower in a real browser: its pages are read as a person reads them, and photographed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.processes import ROOT
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.flower.conftest import PASSWORD, START_SECONDS, USER, Flower
from tests.flower.test_access import SECRETS

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
By = pytest.importorskip("selenium.webdriver.common.by").By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
PICTURES = ROOT / "artifacts" / "flower"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    """A headless Chromium that keeps nothing and calls no other host."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1560,720",
        "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(START_SECONDS)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(browser: "webdriver.Chrome", flower: Flower, dispatches: dict[str, str]) -> "Pages":
    """Flower, logged in to, once it has seen the dispatches end."""
    for outcome, dispatch_id in dispatches.items():
        flower.wait_for(dispatch_id, "SUCCESS" if outcome == "accepted" else "FAILURE")
    pages = Pages(browser, flower)
    pages.log_in()
    return pages


class Pages:
    """What the browser shows."""

    def __init__(self, browser: "webdriver.Chrome", flower: Flower) -> None:
        self.browser, self.flower = browser, flower

    def log_in(self) -> None:
        """Give the password as a browser does; it then sends it along by itself."""
        address = self.flower.address("/workers")
        self.browser.get(address.replace("://", f"://{USER}:{PASSWORD}@"))

    def open(self, path: str, *awaited: str) -> str:
        """Open a page; return its text once all that is awaited stands on it."""
        self.browser.get(self.flower.address(path))
        what = f"{path} shows {', '.join(awaited)}"
        # Long names are set in two pieces, so that their end stays in sight.
        read = lambda: self.text().replace("\n", "")  # noqa: E731
        wait_until(lambda: all(each in read() for each in awaited), 10, what)
        self.photograph(path.strip("/").partition("/")[0])
        return self.text()

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def photograph(self, name: str) -> None:
        """Keep a picture of the page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        assert self.browser.save_screenshot(str(PICTURES / f"{name}.png"))

    def row(self, dispatch_id: str) -> str:
        """The line of the table of tasks that is about a dispatch."""
        rows = self.browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr")
        return next(str(row.text) for row in rows if dispatch_id in row.text)


def test_the_list_of_tasks_shows_which_dispatch_failed_and_why(
    pages: Pages, dispatches: dict[str, str]
) -> None:
    pages.open("/tasks", *dispatches.values())
    good, bad = pages.row(dispatches["accepted"]), pages.row(dispatches["refused"])
    assert "SUCCESS" in good
    assert "accepted" in good
    assert "FAILURE" in bad
    assert "DispatchFailed('refused')" in bad
    assert "DispatchFailed('outcome_unknown')" in pages.row(dispatches["unknown"])


def test_the_page_of_a_failed_dispatch_says_so(pages: Pages, dispatches: dict[str, str]) -> None:
    text = pages.open(f"/task/{dispatches['refused']}", "FAILURE")
    assert "DispatchFailed('refused')" in text
    assert dispatches["refused"].removeprefix("run-") in text


def test_the_workers_are_shown_and_nothing_there_can_be_pressed(
    pages: Pages, flower: Flower, stack: Stack
) -> None:
    name = flower.worker()
    assert "Online" in pages.open("/workers", name, "Online")
    pages.open(f"/worker/{name}", name)
    texts = [each.text for each in pages.browser.find_elements(By.TAG_NAME, "button")]
    assert not [text for text in texts if text.strip() in ("Shut Down", "Restart Pool", "Grow")]


def test_no_page_holds_a_secret_in_what_is_read_or_in_what_it_is_made_of(
    pages: Pages, flower: Flower, dispatches: dict[str, str]
) -> None:
    opened = ["/workers", "/tasks", "/broker", f"/worker/{flower.worker()}"]
    for path in [*opened, *(f"/task/{each}" for each in dispatches.values())]:
        shown = pages.open(path) + pages.browser.page_source
        assert not [secret for secret in SECRETS if secret in shown], path


def test_a_stranger_is_shown_nothing(flower: Flower, tmp_path: Path, pages: Pages) -> None:
    pages.browser.get(flower.address("/tasks").replace("127.0.0.1", "localhost"))
    assert "run-" not in pages.browser.page_source
