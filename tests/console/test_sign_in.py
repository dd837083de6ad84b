"""Signing in and out: which token opens which pages, and what stays of it."""

import time

import pytest

from devstack.stack import Stack
from tests.acceptance.tokens import claims, signed
from tests.console.conftest import Console
from tests.support.client import ApiClient


def token_of(user: str, roles: list[str], seconds: float = 300) -> str:
    return signed("HS256", claims(sub=user, roles=roles, exp=time.time() + seconds))


def test_an_operators_token_opens_the_overview(sign_in_page: Console) -> None:
    console = sign_in_page.load()
    console.save_screenshot("sign_in")
    console.submit_token(token_of("olga", ["operator"]))
    console.see("h1", "Overview")
    console.see(".tile", "Unknown")
    assert "olga" in console.text("#session")
    assert [link.text for link in console.all("#nav a")] == ["Overview", "Jobs", "Retries"]


def test_a_refused_token_stays_in_the_field_to_be_corrected(sign_in_page: Console) -> None:
    console = sign_in_page.load()
    good = token_of("olga", ["operator"])
    console.submit_token(good[:-4])
    console.see("#sign-in [role=alert]", "Not accepted")
    field = console.see("#field-token")
    assert field.get_attribute("value") == good[:-4]
    field.send_keys(good[-4:])
    console.click("#sign-in button[type=submit]")
    console.see("h1", "Overview")


def test_a_malformed_token_is_not_sent(sign_in_page: Console) -> None:
    console = sign_in_page.load()
    for token in ("", "two words", "ключ"):
        console.submit_token(token)
        console.see("#sign-in [role=alert]", "not a token")
    assert console.browser_errors() == []


@pytest.mark.parametrize(("next_user", "kept"), [("olga", "OUT_OF_MEMORY"), ("oleg", "")])
def test_input_is_kept_when_a_token_expires_but_only_for_the_same_user(
    next_user: str, kept: str, sign_in_page: Console
) -> None:
    console = sign_in_page.load("/retries")
    console.submit_token(token_of("olga", ["operator"], seconds=4))
    console.see("input[name=failure_code]").send_keys("OUT_OF_MEMORY")
    console.see("#sign-in [role=alert]", "not accepted any more")
    assert [e for e in console.all("main, #nav, #session") if e.is_displayed()] == []
    assert console.see("#field-token").get_attribute("value") == "", "the next one is pasted here"
    console.submit_token(token_of(next_user, ["operator"]))
    assert console.see("input[name=failure_code]").get_attribute("value") == kept
    assert (console.focused().get_attribute("id") == "field-failure_code") == bool(kept)


def test_an_act_whose_answer_came_after_the_token_expired_can_be_repeated(
    jwt_stack: Stack, sign_in_page: Console
) -> None:
    alice = ApiClient(jwt_stack.api_url, token=token_of("alice", ["editor"]))
    console = sign_in_page.load(f"/jobs/{alice.uploaded_job()['id']}")
    console.submit_token(token_of("olga", ["operator"], seconds=5))
    console.click("#act-cancel")
    console.fill("dialog.act textarea", "Too late")
    console.hold_next_answer()
    console.click("dialog.act button[type=submit]")
    console.wait_for_held_answer()
    console.see("#sign-in [role=alert]", "not accepted any more")
    assert not console.all("dialog.act")[0].is_displayed()
    console.submit_token(token_of("olga", ["operator"]))
    console.wait(lambda: not console.all("#sign-in"), "olga is signed in again")
    console.release_answer()
    console.see("dialog.act [role=status]", "It may have been done. It is safe to try again.")
    console.click("dialog.act button[type=submit]")
    console.see("dialog.act [role=status]", "FSM_TERMINAL_IMMUTABLE")


def test_signing_in_twice_at_once_is_signing_in(console: Console) -> None:
    console.load()
    console.driver.execute_script(
        "const form = document.querySelector('#sign-in form');"
        "form.requestSubmit(); form.requestSubmit();"
    )
    console.see("h1", "Try Take One")
    console.driver.execute_async_script("fetch('/healthz').then(arguments[0])")
    assert console.browser_errors() == []


def test_an_attempt_to_sign_in_that_fails_late_does_not_end_the_session(
    sign_in_page: Console,
) -> None:
    console, token = sign_in_page.load(), token_of("olga", ["operator"])
    console.driver.execute_script(
        "const send = window.fetch, lost = [];"
        "window.fetch = (url, { signal }) => new Promise((_, fail) => {"
        " lost.push(fail); signal.addEventListener('abort', () => fail(signal.reason)); });"
        "window.reconnect = () => { window.fetch = send; };"
        "window.lose = () => lost.forEach((fail) => fail(new TypeError('Failed to fetch')));"
    )
    console.submit_token(token)
    console.driver.execute_script("reconnect()")
    console.submit_token(token)
    console.see("h1", "Overview")
    console.driver.execute_script("lose()")
    console.go("/jobs").see("main > [role=status]", "No job.")


def test_a_user_who_has_lost_the_operators_role_sees_no_earlier_data(
    jwt_stack: Stack, sign_in_page: Console
) -> None:
    oleg = ApiClient(jwt_stack.api_url, token=token_of("oleg", ["operator"]))
    pause = {"reason": "The engine moves."}
    assert oleg.call("POST", "/api/v1/operations/pause", json=pause).status_code == 200
    try:
        console = sign_in_page.load("/jobs?view=failed")
        console.submit_token(token_of("olga", ["operator"], seconds=4))
        console.see("h1", "Failed jobs")
        console.see("#pause", "The engine moves.")
        console.see("#sign-in [role=alert]", "not accepted any more")
        console.submit_token(token_of("olga", ["editor"]))
        console.see("h1", "Another role is needed")
        assert "Failed jobs" not in console.driver.page_source
        assert "The engine moves." not in console.driver.page_source
    finally:
        oleg.call("POST", "/api/v1/operations/resume")


def test_an_editor_is_shown_that_the_operators_role_is_needed(
    jwt_stack: Stack, sign_in_page: Console
) -> None:
    alice = ApiClient(jwt_stack.api_url, token=token_of("alice", ["editor"]))
    alice.create_project("Of Alice")
    console = sign_in_page
    for path in ("", "/jobs", "/jobs/x", "/retries"):
        console.load(path)
        console.submit_token(token_of("bob", ["editor"]))
        assert "operator's role is needed" in console.text("main")
        assert console.all("#nav a") == []
        assert "Alice" not in console.driver.page_source


def test_nothing_is_stored_and_a_sign_out_or_reload_ends_the_session(sign_in_page: Console) -> None:
    console = sign_in_page.load()
    token = token_of("olga", ["operator"])
    console.submit_token(token)
    console.see("h1", "Overview")
    stores = "return [localStorage.length, sessionStorage.length, document.cookie, history.state]"
    assert console.driver.execute_script(stores) == [0, 0, "", None]
    console.click("#sign-out")
    assert console.see("#field-token").get_attribute("value") == ""
    assert "Overview" not in console.driver.page_source
    console.submit_token(token)
    console.see("h1", "Overview")
    console.driver.refresh()
    assert console.see("#field-token").get_attribute("value") == ""


def test_in_development_a_name_is_enough(console: Console) -> None:
    console.load().sign_in("newcomer", "editor,operator")
    console.see("h1", "Try Take One")
    assert len(console.all("#nav a")) == 4


def test_the_token_is_in_no_address_and_no_log(jwt_stack: Stack, sign_in_page: Console) -> None:
    token = token_of("olga-of-the-logs", ["operator"])
    console = sign_in_page.load("/jobs?view=failed&owner=a-private-owner")
    console.submit_token(token)
    console.see("h1", "Failed jobs")
    assert token not in console.driver.current_url
    for process in jwt_stack.webs:
        for secret in (token, "olga-of-the-logs", "a-private-owner"):
            assert secret not in process.log()
