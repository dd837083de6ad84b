"""The console in a real browser: what a person does and sees."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.common import exceptions

from devstack.processes import ROOT
from devstack.stack import Stack
from devstack.waiting import wait_until
from tests.acceptance import tokens
from tests.conftest import NewStack
from tests.console.job_factory import SETTINGS, JobFactory
from tests.support.orchestrator import StubOrchestrator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = ROOT / "artifacts" / "console"
LIMIT_SECONDS = 20.0
WIDE, PHONE = (1280, 900), (360, 740)

Element = Any


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests where there is no browser."""
    if CHROMIUM and DRIVER:
        return
    for item in items:
        if "tests/console" in str(item.path):
            item.add_marker(
                pytest.mark.skip(reason="chromium and chromium-driver are not installed")
            )


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that stores nothing and connects to no other host."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--no-proxy-server",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    running.set_page_load_timeout(LIMIT_SECONDS)
    yield running
    running.quit()


class Console:
    """The console page of a service, in the browser."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def load(self, path: str = "") -> "Console":
        """Load the page at a path after its `#`; this signs out."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/console{path and '#'}{path}")
        self.see("#sign-in h1")
        return self

    def go(self, path: str) -> "Console":
        """Go to a path after the `#`, without loading the page."""
        self.driver.execute_script("location.hash = arguments[0]", path)
        return self

    def sign_in(self, name: str, role: str = "operator") -> "Console":
        """Sign in with a name and role, as in development mode."""
        self.fill("#field-name", name)
        self.choose("#field-role", role)
        self.click("#sign-in button[type=submit]")
        self.wait(lambda: not self.all("#sign-in"), f"{name} is signed in")
        return self

    def submit_token(self, token: str) -> None:
        self.fill("#field-token", token)
        self.click("#sign-in button[type=submit]")

    def all(self, selector: str) -> list[Element]:
        """Return all matching elements."""
        return list(self.driver.find_elements("css selector", selector))

    def see(self, selector: str, text: str = "") -> Element:
        """Wait for a visible element with this text, and return the first."""
        return self.wait(lambda: self._shown(selector, text), f"{selector} shows {text!r}")

    def _shown(self, selector: str, text: str) -> Element | None:
        return next((e for e in self.all(selector) if e.is_displayed() and text in e.text), None)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition; try again if an element was replaced meanwhile."""

        def holds() -> Any:
            try:
                return condition()
            except exceptions.StaleElementReferenceException:
                return None

        return wait_until(holds, LIMIT_SECONDS, what)

    def click(self, selector: str, text: str = "") -> None:
        """Click on a visible element with this text, once there is one."""

        def clicked() -> bool:
            element = self._shown(selector, text)
            if element is not None:
                self.driver.execute_script(
                    "arguments[0].scrollIntoView({block: 'center'})", element
                )
                element.click()
            return element is not None

        self.wait(clicked, f"{selector} {text!r} can be clicked")

    def fill(self, selector: str, text: str) -> None:
        """Replace a field's text."""
        self.driver.execute_script(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            self.see(selector),
            text,
        )

    def choose(self, selector: str, value: str) -> None:
        self.click(f"{selector} option[value='{value}']")

    def text(self, selector: str = "body") -> str:
        """Return an element's visible text."""
        return str(self.see(selector).text)

    def press(self, *keys: str) -> None:
        """Press keys in order, at the focused element."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> Element:
        """Return the focused element."""
        return self.driver.switch_to.active_element

    def resize(self, size: tuple[int, int]) -> None:
        """Set the page's size in pixels; a window cannot be as narrow as a phone."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def hold_next_answer(self) -> None:
        """Keep back the answer to the next POST until `release_answer`, as a slow network would."""
        self.driver.execute_script(
            "const send = window.fetch; window.fetch = async (url, options) => {"
            " if (options.method !== 'POST') return send(url, options);"
            " window.fetch = send; window.release = null; const answer = await send(url, options);"
            " await new Promise((release) => { window.release = release; }); return answer; };"
        )

    def wait_for_held_answer(self) -> None:
        """Wait until the service has answered, but the page does not know it."""
        self.wait(lambda: self.driver.execute_script("return !!window.release"), "a held answer")

    def release_answer(self) -> None:
        """Let the page have the held answer; an answer that comes after it shows that it was read."""
        self.driver.execute_async_script("release(); fetch('/healthz').then(arguments[0])")

    def set_color_scheme(self, scheme: str) -> None:
        """Set the preferred color scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def save_screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def browser_errors(self) -> list[str]:
        """Return script errors and blocked resources since the last call."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        # The API's error answers are logged too; tests check them on the page.
        return [message for message in messages if "/api/v1/" not in message]

    def row_ids(self) -> list[str]:
        """Return the ids of the listed jobs."""
        links = self.all("li.row a")
        return [link.get_attribute("href").rpartition("/")[2] for link in links]

    def resource_urls(self) -> list[str]:
        """Return the URLs that the page has loaded."""
        script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        return list(self.driver.execute_script(script))


NewConsole = Callable[[Stack], Console]


@pytest.fixture
def new_console(driver: webdriver.Chrome) -> NewConsole:
    """Returns the console of a service, in desktop size and light colors."""

    def make(stack: Stack) -> Console:
        console = Console(driver, stack.api_url)
        console.resize(WIDE)
        console.set_color_scheme("light")
        console.browser_errors()
        return console

    return make


@pytest.fixture
def console(stack: Stack, new_console: NewConsole) -> Iterator[Console]:
    """The console of the shared stack; no test may cause a browser error."""
    opened = new_console(stack)
    yield opened
    assert opened.browser_errors() == []


@pytest.fixture(scope="package")
def jwt_stack(new_stack: NewStack) -> Iterator[Stack]:
    """A service that accepts an issuer's JWTs, without leeway for clocks."""
    settings = {
        "TAKEONE_AUTH_MODE": "jwt",
        "TAKEONE_JWT_KEY": tokens.SHARED_KEY,
        "TAKEONE_JWT_ALGORITHMS": "HS256",
        "TAKEONE_JWT_ISSUER": tokens.ISSUER,
        "TAKEONE_JWT_AUDIENCE": tokens.AUDIENCE,
        "TAKEONE_JWT_LEEWAY_SECONDS": "0",
    }
    with new_stack(workers=0, **settings) as running:
        yield running


@pytest.fixture
def sign_in_page(jwt_stack: Stack, new_console: NewConsole) -> Console:
    """The console of `jwt_stack`; a test loads it."""
    return new_console(jwt_stack)


@pytest.fixture(scope="package")
def factory(
    new_stack: NewStack, orchestrator: StubOrchestrator, callback_secret: str
) -> Iterator[JobFactory]:
    """Jobs of the operators' views, on a stack of their own."""
    with new_stack(**SETTINGS) as running:
        yield JobFactory(running, orchestrator, callback_secret)


@pytest.fixture
def olga(factory: JobFactory, new_console: NewConsole) -> Iterator[Console]:
    """The console of the factory's stack with an operator signed in; no test may cause a browser error."""
    opened = new_console(factory.stack).load("/").sign_in("olga", "operator")
    yield opened
    assert opened.browser_errors() == []
