"""The console in a real browser: what a person does on it, and what can be read there."""

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
from tests.console.night import SETTINGS, Night
from tests.support.orchestrator import StubOrchestrator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
PICTURES = ROOT / "artifacts" / "console"
LIMIT_SECONDS = 20.0
WIDE, PHONE = (1280, 900), (360, 740)

Element = Any


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say why there is nothing to see, where there is no browser."""
    if CHROMIUM and DRIVER:
        return
    for item in items:
        if "tests/console" in str(item.path):
            item.add_marker(
                pytest.mark.skip(reason="chromium and chromium-driver are not installed")
            )


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that keeps nothing and calls no other host."""
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
    """The page of a service, in the browser."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def load(self, place: str = "") -> "Console":
        """Load the page anew, at a place behind its `#`; this signs out."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/console{place and '#'}{place}")
        self.see("#sign-in h1")
        return self

    def go(self, place: str) -> "Console":
        """Follow a link within the page."""
        self.driver.execute_script("location.hash = arguments[0]", place)
        return self

    def sign_in(self, name: str, role: str = "operator") -> "Console":
        """Sign in by a name, as in development."""
        self.fill("#field-name", name)
        self.choose("#field-role", role)
        self.click("#sign-in button[type=submit]")
        self.wait(lambda: not self.all("#sign-in"), f"{name} is signed in")
        return self

    def present(self, token: str) -> None:
        """Give a token to the sign-in."""
        self.fill("#field-token", token)
        self.click("#sign-in button[type=submit]")

    def all(self, selector: str) -> list[Element]:
        """Every element that is there."""
        return list(self.driver.find_elements("css selector", selector))

    def see(self, selector: str, text: str = "") -> Element:
        """The first such element that is shown and has this text, awaited."""
        return self.wait(lambda: self._shown(selector, text), f"{selector} shows {text!r}")

    def _shown(self, selector: str, text: str) -> Element | None:
        return next((e for e in self.all(selector) if e.is_displayed() and text in e.text), None)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a fact; what was replaced while it was looked at is looked at again."""

        def holds() -> Any:
            try:
                return condition()
            except exceptions.StaleElementReferenceException:
                return None

        return wait_until(holds, LIMIT_SECONDS, what)

    def click(self, selector: str, text: str = "") -> None:
        """Click on what is shown, once it is; again if it was replaced just then."""

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
        """Put text into a field, in place of what is there."""
        self.driver.execute_script(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            self.see(selector),
            text,
        )

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list."""
        self.click(f"{selector} option[value='{value}']")

    def text(self, selector: str = "body") -> str:
        """What can be read there."""
        return str(self.see(selector).text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> Element:
        """Where the focus is."""
        return self.driver.switch_to.active_element

    def resize(self, size: tuple[int, int]) -> None:
        """Show the page in so many pixels; a window cannot be as narrow as a phone."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def photograph(self, name: str) -> None:
        """Keep a picture of the page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(PICTURES / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the browser refused or what failed in a script, since the last call of this."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        # Each refusal of the API is in there too, and is looked at on the page.
        return [each for each in messages if "/api/v1/" not in each]


NewConsole = Callable[[Stack], Console]


@pytest.fixture
def new_console(driver: webdriver.Chrome) -> NewConsole:
    """The console of a service, of a desk's size and in light colours."""

    def make(stack: Stack) -> Console:
        console = Console(driver, stack.api_url)
        console.resize(WIDE)
        console.prefer("light")
        console.complaints()
        return console

    return make


@pytest.fixture
def console(stack: Stack, new_console: NewConsole) -> Iterator[Console]:
    """The console of the shared stack. Whatever is done on it, the browser has nothing to complain of."""
    shown = new_console(stack)
    yield shown
    assert shown.complaints() == []


@pytest.fixture(scope="package")
def jwt_stack(new_stack: NewStack) -> Iterator[Stack]:
    """A service that takes tokens of an issuer, and forgives no clock."""
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


@pytest.fixture(scope="package")
def night(
    new_stack: NewStack, orchestrator: StubOrchestrator, callback_secret: str
) -> Iterator[Night]:
    """A service with operators, at night."""
    with new_stack(**SETTINGS) as running:
        yield Night(running, orchestrator, callback_secret)


@pytest.fixture
def olga(night: Night, new_console: NewConsole) -> Iterator[Console]:
    """Its console, with an operator signed in. The browser has nothing to complain of."""
    shown = new_console(night.stack).load("/").sign_in("olga", "operator")
    yield shown
    assert shown.complaints() == []
