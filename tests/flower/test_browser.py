"""Flower in a real browser: what its pages show, with a screenshot of each."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

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
SCREENSHOTS = ROOT / "artifacts" / "flower"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    """A headless Chromium with an empty profile, which calls no other host."""
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
    """Flower's pages, logged in, once Flower has seen the dispatches end."""
    for outcome, dispatch_id in dispatches.items():
        flower.wait_for(dispatch_id, "SUCCESS" if outcome == "accepted" else "FAILURE")
    pages = Pages(browser, flower)
    pages.log_in()
    return pages


@dataclass
class Pages:
    """Flower's pages in the browser."""

    browser: "webdriver.Chrome"
    flower: Flower

    def log_in(self) -> None:
        """Log in by a URL with the password, which the browser then sends with each request."""
        self.browser.get(self.flower.url("/workers").replace("://", f"://{USER}:{PASSWORD}@"))

    def open(self, path: str, *expected: str) -> str:
        """Open a page, and return its text once it shows all that is expected; keep a screenshot."""
        self.browser.get(self.flower.url(path))
        wait_until(lambda: self._shows(expected), 10, f"{path} shows {', '.join(expected)}")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        name = path.strip("/").partition("/")[0]
        assert self.browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
        return self.text()

    def _shows(self, expected: tuple[str, ...]) -> bool:
        text = self.text().replace("\n", "")  # Flower breaks long names into two lines
        return all(part in text for part in expected)

    def text(self) -> str:
        """The visible text of the page."""
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def row(self, dispatch_id: str) -> str:
        """The row of a dispatch in the table of tasks."""
        rows = self.browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr")
        return next(str(row.text) for row in rows if dispatch_id in row.text)


def test_the_list_of_tasks_shows_which_dispatch_failed_and_why(
    pages: Pages, dispatches: dict[str, str]
) -> None:
    pages.open("/tasks", *dispatches.values())
    accepted, refused = pages.row(dispatches["accepted"]), pages.row(dispatches["refused"])
    assert "SUCCESS" in accepted
    assert "accepted" in accepted
    assert "FAILURE" in refused
    assert "DispatchFailed('refused')" in refused
    assert "DispatchFailed('outcome_unknown')" in pages.row(dispatches["unknown"])


def test_the_page_of_a_failed_dispatch_shows_the_failure(
    pages: Pages, dispatches: dict[str, str]
) -> None:
    text = pages.open(f"/task/{dispatches['refused']}", "FAILURE")
    assert "DispatchFailed('refused')" in text
    assert dispatches["refused"].removeprefix("run-") in text


def test_workers_are_shown_without_buttons_that_control_them(
    pages: Pages, flower: Flower, stack: Stack
) -> None:
    name = flower.worker()
    assert "Online" in pages.open("/workers", name, "Online")
    pages.open(f"/worker/{name}", name)
    texts = {button.text.strip() for button in pages.browser.find_elements(By.TAG_NAME, "button")}
    assert not texts & {"Shut Down", "Restart Pool", "Grow"}


def test_no_secret_is_in_a_page_s_text_or_source(
    pages: Pages, flower: Flower, dispatches: dict[str, str]
) -> None:
    opened = ["/workers", "/tasks", "/broker", f"/worker/{flower.worker()}"]
    for path in [*opened, *(f"/task/{task_id}" for task_id in dispatches.values())]:
        content = pages.open(path) + pages.browser.page_source
        assert not [secret for secret in SECRETS if secret in content], path


def test_without_a_login_nothing_is_shown(flower: Flower, pages: Pages) -> None:
    pages.browser.get(flower.url("/tasks").replace("127.0.0.1", "localhost"))
    assert "run-" not in pages.browser.page_source
