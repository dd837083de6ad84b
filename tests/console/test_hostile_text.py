"""Names, reasons and messages with HTML, with bidirectional controls or of great length are shown as text."""

from tests.console.conftest import PHONE, WIDE, Console, NewConsole
from tests.console.job_factory import JobFactory

HTML = (
    "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script><b>bold</b>"
)
RIGHT_TO_LEFT = "\u202e\u05e9\u05dc\u05d5\u05dd\u2066 REVERSED"
LONG = "x" * 200
INJECTED = "img, iframe, object, embed, b, i, u, svg, style, main script, base, meta[http-equiv]"


def assert_is_text(console: Console, *texts: str) -> None:
    content = console.driver.execute_script("return document.body.textContent")
    assert [text for text in texts if text not in content] == []
    assert not console.all(INJECTED)
    assert "gone" not in console.driver.title
    for element in console.all("bdi.free"):
        assert "<" not in element.get_attribute("innerHTML")


def test_text_of_editors_and_orchestrators_is_not_interpreted(
    olga: Console, factory: JobFactory
) -> None:
    names = (HTML, RIGHT_TO_LEFT, LONG)
    jobs = [factory.job(HTML, name=name, metadata={"<b>key</b>": HTML}) for name in names]
    for handle in jobs:
        handle.lead_to("AUDIO_EXTRACTING")
        handle.reported(
            "FAILED", failure_code=HTML[:100], failure_message=HTML * 10, failed_stage="<b>ASR</b>"
        )
    olga.go("/jobs?view=failed")
    olga.see("li.row", "REVERSED")
    assert_is_text(olga, *names, HTML[:100])
    for handle, name in zip(jobs, names, strict=True):
        olga.go(f"/jobs/{handle.id}").see("dd", "ASR")
        assert_is_text(olga, name, HTML, "<b>ASR</b>", "<b>key</b>")
        olga.resize(PHONE)
        assert olga.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        olga.resize(WIDE)
    olga.save_screenshot("hostile_text")


def test_a_name_neither_hides_its_job_nor_covers_others(olga: Console, factory: JobFactory) -> None:
    names = {"invisible": "\u200b", "tall": "a\n" * 99 + "b", "stacked": "x" + "\u0301" * 190}
    jobs = {kind: factory.failed("zed", name=name) for kind, name in names.items()}
    olga.go("/jobs?view=failed&owner=zed")
    for kind, handle in jobs.items():
        link = olga.see(f"li.row a[href='#/jobs/{handle.id}']")
        assert link.size["width"] > 50, f"the link of the {kind} name can be seen"
        row = olga.driver.execute_script("return arguments[0].closest('li')", link)
        assert row.size["height"] < 250, kind
        assert row.value_of_css_property("overflow-y") == "clip"
    olga.save_screenshot("hostile_names")


def test_text_in_the_address_is_not_interpreted(olga: Console) -> None:
    olga.go(f"/jobs?view=failed&owner={HTML}&older_than=<b>7</b>").see(
        "main > [role=status]", "older_than"
    )
    assert_is_text(olga, "<b>7</b> seconds")
    olga.go("/jobs/<b>x<%2Fb>").see("main > [role=status]", "no such job")
    assert_is_text(olga, "<b>x</b>")


def test_an_editors_own_text_is_not_interpreted(
    factory: JobFactory, new_console: NewConsole
) -> None:
    console = new_console(factory.stack).load("/try").sign_in("<b>ed</b>", "editor")
    console.fill("input[name=name]", HTML)
    console.click("form[aria-label='New project'] button")
    console.see("#field-project_id option", "<b>bold</b>")
    console.fill("#field-job_name", RIGHT_TO_LEFT)
    console.click("form[aria-label='New job'] button")
    console.see("dd", "REVERSED")
    assert_is_text(console, RIGHT_TO_LEFT, "<b>ed</b>")
    console.driver.back()
    console.see("#field-project_id option", "<b>bold</b>")
    assert_is_text(console, HTML)
