"""/docs in Chromium: the examples are shown, and "Try it out" reaches the service."""

import shutil
from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from devstack.waiting import wait_until

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
LIMIT_SECONDS = 30.0

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"
)


class Docs:
    """The page, and actions on it."""

    def __init__(self, driver: "webdriver.Chrome", url: str) -> None:
        self.driver = driver
        driver.get(f"{url}/docs")
        self.find(".opblock")

    def find(self, selector: str) -> "webdriver.remote.webelement.WebElement":
        """Wait for the first visible element of a selector."""

        def shown() -> object:
            found = self.driver.find_elements("css selector", selector)
            return next((element for element in found if element.is_displayed()), None)

        return wait_until(shown, LIMIT_SECONDS, f"{selector} is shown")

    def click(self, selector: str) -> None:
        """Click an element wherever the page is scrolled to."""
        self.driver.execute_script("arguments[0].click()", self.find(selector))

    def authorize(self, token: str) -> None:
        """Sign in for "Try it out"."""
        self.click(".btn.authorize")
        self.find(".auth-container input").send_keys(token)
        self.click(".auth-container .btn.modal-btn.auth.authorize")
        self.click(".btn.modal-btn.auth.btn-done")

    def try_out(self, operation: str) -> tuple[str, str]:
        """Send a call with its example values; return the status shown and the whole answer."""
        block = f"[id$='-{operation}']"
        self.click(f"{block} .opblock-summary-control")
        self.click(f"{block} .try-out__btn")
        self.click(f"{block} .btn.execute")
        answer = f"{block} .live-responses-table .response"
        return self.find(f"{answer} .response-col_status").text, self.find(answer).text

    def complaints(self) -> list[str]:
        """The browser's messages about violations of the policy."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [
            message
            for message in messages
            if "Content Security Policy" in message or "Refused" in message
        ]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    """A headless Chromium without background requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1400",
        "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    running.set_page_load_timeout(LIMIT_SECONDS)
    yield running
    running.quit()


def test_try_it_out_reaches_the_service_under_the_pages_policy(
    driver: "webdriver.Chrome", stack: Stack
) -> None:
    docs = Docs(driver, stack.api_url)
    docs.authorize("test:reader:editor")
    status, answer = docs.try_out("createProject")
    assert status.startswith("201")
    assert "Spring interviews" in answer
    status, answer = docs.try_out("listProjects")
    assert status.startswith("200")
    assert "Spring interviews" in answer
    assert docs.complaints() == []
    # The token, or a callback secret, is gone with the page.
    stores = "return [localStorage.length, sessionStorage.length, document.cookie]"
    assert driver.execute_script(stores) == [0, 0, ""]


def test_each_code_of_a_call_is_shown_with_an_example(
    driver: "webdriver.Chrome", stack: Stack
) -> None:
    docs = Docs(driver, stack.api_url)
    docs.click("[id$='-runJob'] .opblock-summary-control")
    docs.find("[id$='-runJob'] .responses-table tr[data-code='202'] .example")
    shown = docs.find("[id$='-runJob'] .responses-table").text
    for example in (
        "run-8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2",
        "UNAUTHORIZED",
        "RESOURCE_NOT_FOUND",
        "FSM_TRANSITION_INVALID",
        "ORCHESTRATOR_DISPATCH_FAILED",
    ):
        assert example in shown  # fmt: skip
