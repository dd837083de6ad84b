"""Signing in: whose token opens what, and what is left of it."""

import time

from devstack.stack import Stack
from tests.acceptance.tokens import claims, signed
from tests.console.conftest import Console, NewConsole
from tests.support.client import ApiClient


def token_of(user: str, roles: list[str], seconds: float = 300) -> str:
    return signed("HS256", claims(sub=user, roles=roles, exp=time.time() + seconds))


def test_an_operators_token_opens_the_overview(jwt_stack: Stack, new_console: NewConsole) -> None:
    console = new_console(jwt_stack).load()
    console.photograph("sign_in")
    console.present(token_of("olga", ["operator"]))
    console.see("h1", "Overview")
    console.see(".tile", "Unknown")
    assert "olga" in console.text("#session")
    assert [each.text for each in console.all("#nav a")] == ["Overview", "Jobs", "Retries"]


def test_a_bad_token_is_refused_and_kept_to_be_mended(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    console = new_console(jwt_stack).load()
    good = token_of("olga", ["operator"])
    console.present(good[:-4])
    console.see("#sign-in [role=alert]", "Not accepted")
    field = console.see("#field-token")
    assert field.get_attribute("value") == good[:-4]
    field.send_keys(good[-4:])
    console.click("#sign-in button[type=submit]")
    console.see("h1", "Overview")


def test_what_can_be_no_token_is_not_even_sent(jwt_stack: Stack, new_console: NewConsole) -> None:
    console = new_console(jwt_stack).load()
    for given in ("", "two words", "ключ"):
        console.present(given)
        console.see("#sign-in [role=alert]", "not a token")
    assert console.complaints() == []


def test_when_the_token_ends_what_was_entered_is_kept(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    console = new_console(jwt_stack).load("/retries")
    console.present(token_of("olga", ["operator"], seconds=4))
    console.fill("input[name=failure_code]", "OUT_OF_MEMORY")
    console.see("#sign-in [role=alert]", "not accepted any more")
    assert not console.see("#sign-in").find_elements("xpath", "//main[not(@hidden)]")
    console.present(token_of("olga", ["operator"]))
    field = console.see("input[name=failure_code]")
    assert field.get_attribute("value") == "OUT_OF_MEMORY"


def test_another_caller_finds_nothing_of_the_one_before(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    console = new_console(jwt_stack).load("/retries")
    console.present(token_of("olga", ["operator"], seconds=4))
    console.fill("input[name=failure_code]", "OUT_OF_MEMORY")
    console.see("#sign-in [role=alert]", "not accepted any more")
    console.present(token_of("oleg", ["operator"]))
    assert console.see("input[name=failure_code]").get_attribute("value") == ""


def test_one_who_is_no_operator_any_more_sees_nothing_of_before(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    console = new_console(jwt_stack).load("/jobs?view=failed")
    console.present(token_of("olga", ["operator"], seconds=4))
    console.see("h1", "Failed jobs")
    console.see("#sign-in [role=alert]", "not accepted any more")
    console.present(token_of("olga", ["editor"]))
    console.see("h1", "Another role is needed")
    assert "Failed jobs" not in console.driver.page_source


def test_an_editors_token_is_told_that_an_operators_role_is_needed(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    alice = ApiClient(jwt_stack.api_url, token=token_of("alice", ["editor"]))
    alice.create_project("Of Alice")
    console = new_console(jwt_stack)
    for place in ("", "/jobs", "/jobs/x", "/retries"):
        console.load(place)
        console.present(token_of("bob", ["editor"]))
        assert "operator's role is needed" in console.text("main")
        assert console.all("#nav a") == []
        assert "Alice" not in console.driver.page_source


def test_signing_out_leaves_nothing_and_a_reload_asks_again(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    console = new_console(jwt_stack).load()
    token = token_of("olga", ["operator"])
    console.present(token)
    console.see("h1", "Overview")
    stores = "return [localStorage.length, sessionStorage.length, document.cookie, history.state]"
    assert console.driver.execute_script(stores) == [0, 0, "", None]
    console.click("#sign-out")
    assert console.see("#field-token").get_attribute("value") == ""
    assert "Overview" not in console.driver.page_source
    console.present(token)
    console.see("h1", "Overview")
    console.driver.refresh()
    assert console.see("#field-token").get_attribute("value") == ""


def test_in_development_a_name_is_enough(console: Console) -> None:
    console.load().sign_in("newcomer", "editor,operator")
    console.see("h1", "Try Take One")
    assert len(console.all("#nav a")) == 4


def test_the_token_is_in_no_address_and_in_no_log(
    jwt_stack: Stack, new_console: NewConsole
) -> None:
    token = token_of("olga-of-the-logs", ["operator"])
    console = new_console(jwt_stack).load("/jobs?view=failed&owner=a-private-owner")
    console.present(token)
    console.see("h1", "Failed jobs")
    assert token not in console.driver.current_url
    for process in jwt_stack.webs:
        for secret in (token, "olga-of-the-logs", "a-private-owner"):
            assert secret not in process.log()
