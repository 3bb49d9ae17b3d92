"""The example app as a person meets it, in a real browser, on a real emulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from stage import App, Person

from kling_async import models
from kling_async.emulator import Emulator, Fault

pytest_plugins = ["seats"]

TEXT_MODEL = "klingai/video-v3-pro-text-to-video"
PICTURE_MODEL = "klingai/video-v3-pro-image-to-video"
SLOW = pytest.mark.emulator(speed=30)


def ask_for(person: Person, app: App, prompt: str) -> None:
    """Ask for a video from words."""
    person.driver.get(app.url)
    person.choose("#kind", "text-to-video")
    person.choose("#model", TEXT_MODEL)
    person.find("#field-prompt").send_keys(prompt)
    person.find("#send").click()
    person.until(lambda: "sending" not in person.text("#videos .status"))


def test_a_picture_becomes_a_video_that_plays(
    person: Person, app: App, picture: Path, emulator: Emulator
) -> None:
    """Upload, words, one click; the video comes, has the right length, and moves."""
    person.driver.get(app.url)
    person.choose("#model", PICTURE_MODEL)
    person.find("#field-image_url").send_keys(str(picture))
    person.find("#field-prompt").send_keys("The sun rises.")
    person.photograph("form")
    person.find("#send").click()
    person.until(lambda: person.text("#videos .status") != "sending")
    person.photograph("waiting")
    person.until(lambda: person.is_playing("#videos video"))
    script = "return document.querySelector('#videos video').duration"
    assert person.driver.execute_script(script) == pytest.approx(5, abs=0.1)
    assert person.text("#videos .status") == "completed"
    news = person.find("#news").get_attribute("textContent")
    assert news == "The sun rises.: completed"
    assert len(emulator.creates) == 1


def test_the_form_has_just_the_fields_that_the_model_takes(
    person: Person, app: App
) -> None:
    """For each kind; every field has a label; what was typed stays."""
    person.driver.get(app.url)
    person.find("#field-image_url")
    person.find("#field-prompt").send_keys("Typed once")
    for kind in models.KINDS:
        person.choose("#kind", kind)
        chosen = person.find("#model").get_attribute("value") or ""
        inputs = person.driver.find_elements(By.CSS_SELECTOR, "[id^=field-]")
        names = {it.get_attribute("name") for it in inputs}
        model = models.get(chosen)
        expected = {it for it in model.fields if it not in model.legacy_fields}
        assert names == expected
        labelled = "return arguments[0].labels.length"
        assert all(person.driver.execute_script(labelled, it) == 1 for it in inputs)
    person.choose("#kind", "text-to-video")
    person.choose("#model", TEXT_MODEL)
    assert person.find("#field-prompt").get_attribute("value") == ""
    person.find("#field-prompt").send_keys("Typed twice")
    person.choose("#model", "klingai/video-v3-standard-text-to-video")
    assert person.find("#field-prompt").get_attribute("value") == "Typed twice"


def test_what_is_wrong_is_told_at_its_field(
    person: Person, app: App, tmp_path: Path, emulator: Emulator
) -> None:
    """In words, with the focus on the first; nothing is created."""
    broken = tmp_path / "holiday.png"
    broken.write_text("no picture at all", "utf-8")
    person.driver.get(app.url)
    person.choose("#model", "klingai/v2-master-image-to-video")
    person.find("#send").click()
    person.until(lambda: person.text("#problem-image_url") == "This is needed.")
    focused = person.driver.switch_to.active_element.get_attribute("id")
    assert focused == "field-image_url"
    person.find("#field-image_url").send_keys(str(broken))
    person.find("#send").click()
    person.until(lambda: "JPEG or PNG" in person.text("#problem-image_url"))
    assert person.find("#field-image_url").get_attribute("aria-invalid") == "true"
    assert emulator.creates == []


@SLOW
def test_two_tabs_see_one_generation_end(
    person: Person, app: App, emulator: Emulator
) -> None:
    """Both show its video; there is one create."""
    ask_for(person, app, "One cat, two tabs")
    first = person.driver.current_window_handle
    person.driver.switch_to.new_window("tab")
    person.driver.get(app.url)
    person.until(lambda: person.is_playing("#videos video"))
    person.driver.switch_to.window(first)
    person.until(lambda: person.text("#videos .status") == "completed")
    assert len(emulator.creates) == 1


@pytest.mark.emulator(speed=120, failure_rate=1)
def test_a_failed_generation_says_why(person: Person, app: App) -> None:
    """The server's reason stands on the card; nothing turns any more."""
    ask_for(person, app, "This will not work")
    person.until(lambda: person.text("#videos .status") == "error")
    assert person.text("#videos .trouble")
    assert not person.find("#videos .wait").is_displayed()
    person.find("#videos .remove").click()
    assert person.find("#none").is_displayed()


@SLOW
def test_a_reload_in_the_middle_loses_nothing(
    person: Person, app: App, emulator: Emulator
) -> None:
    """The card is there again and goes on to its end."""
    ask_for(person, app, "A cat that stays")
    person.driver.refresh()
    assert person.text("#videos .prompt") == "A cat that stays"
    person.until(lambda: person.is_playing("#videos video"))
    assert len(emulator.creates) == 1


LATE = Fault("delay", method="POST", path="generations", seconds=3, accepted=True)


def fill_in(person: Person, app: App, picture: Path, prompt: str) -> None:
    """Fill in the form, with a picture, and send it."""
    person.driver.get(app.url)
    person.choose("#model", PICTURE_MODEL)
    person.find("#field-image_url").send_keys(str(picture))
    person.find("#field-prompt").send_keys(prompt)
    person.find("#send").click()


def wait_for_one_video(person: Person, emulator: Emulator) -> None:
    """One card that plays, one create, one charge: whatever happened before."""
    person.until(lambda: person.is_playing("#videos video"))
    assert len(person.driver.find_elements(By.CSS_SELECTOR, "#videos li")) == 1
    assert len(emulator.creates) == 1
    assert len(emulator.charges) == 1


@pytest.mark.parametrize(
    "is_killed, is_reloaded",
    [(False, True), (True, False), (True, True)],
    ids=["reload", "kill", "kill-and-reload"],
)
def test_an_answer_that_is_lost_costs_nothing(
    person: Person,
    app: App,
    emulator: Emulator,
    picture: Path,
    *,
    is_killed: bool,
    is_reloaded: bool,
) -> None:
    """The page is reloaded, the app is killed, or both, after it was accepted."""
    emulator.faults.add(LATE)
    fill_in(person, app, picture, "An answer that never came")
    person.until(lambda: emulator.creates)
    if is_killed:
        app.kill()
        person.until(lambda: person.text("#videos .status") == "looking")
        person.photograph("looking")
        app.start()
    if is_reloaded:
        person.driver.refresh()
    wait_for_one_video(person, emulator)


@pytest.mark.parametrize("is_reloaded", [False, True], ids=["stay", "leave"])
def test_a_request_that_never_arrived_is_sent_again(
    person: Person, app: App, emulator: Emulator, picture: Path, *, is_reloaded: bool
) -> None:
    """Files and all, also after a reload; but only once the log proves it safe."""
    person.driver.get(app.url)
    person.find("#field-image_url")
    page = person.driver.current_url
    app.kill()
    person.choose("#model", PICTURE_MODEL)
    person.find("#field-image_url").send_keys(str(picture))
    person.find("#field-prompt").send_keys("The first try got lost")
    person.find("#send").click()
    person.until(lambda: person.text("#videos .status") == "looking")
    assert emulator.creates == []
    app.start()
    if is_reloaded:
        person.driver.get(page)
    wait_for_one_video(person, emulator)


def test_an_old_request_that_never_arrived_waits_for_a_click(
    person: Person, app: App, emulator: Emulator
) -> None:
    """Whoever comes back a day later may not want it any more."""
    person.driver.get(app.url)
    person.find("#field-image_url")
    app.kill()
    person.choose("#kind", "text-to-video")
    person.find("#field-prompt").send_keys("Yesterday's wish")
    person.find("#send").click()
    person.until(lambda: person.text("#videos .status") == "looking")
    age(person, hours=24)
    app.start()
    person.driver.get(app.url)
    person.until(lambda: person.find("#videos .again").is_displayed())
    assert "nothing was charged" in person.text("#videos .trouble")
    assert emulator.creates == []
    person.find("#videos .again").click()
    wait_for_one_video(person, emulator)


def age(person: Person, hours: float) -> None:
    """Make what the browser keeps older than it is."""
    script = """
        const kept = JSON.parse(localStorage.getItem("kling-videos"));
        for (const it of kept) {
            it.since -= arguments[0];
            it.posted &&= it.posted - arguments[0];
        }
        localStorage.setItem("kling-videos", JSON.stringify(kept));
    """
    person.driver.execute_script(script, hours * 3_600_000)


def test_two_tabs_send_one_lost_request_once(
    person: Person, app: App, emulator: Emulator, picture: Path
) -> None:
    """Both find it unanswered; one asks and sends, the other takes what it found."""
    person.driver.get(app.url)
    person.find("#field-image_url")
    first = person.driver.current_window_handle
    person.driver.switch_to.new_window("tab")
    fill_in(person, app, picture, "One wish, two tabs")
    app.kill()
    app.start()
    person.driver.refresh()
    person.driver.switch_to.window(first)
    person.driver.refresh()
    wait_for_one_video(person, emulator)


@pytest.mark.parametrize(
    "garbage",
    [
        "garbage{",
        "null",
        "7",
        "{}",
        '[null, 7, "a", [], {}]',
        '[{"id": "\\ud800-and-more", "prompt": "a", "since": 1}]',
        '[{"id": "some-long-id", "prompt": 7, "since": "b"}]',
        '[{"request": "some-long-id", "prompt": "a", "since": 1e999}]',
        '[{"request": "some-long-id", "prompt": "too old", "since": 0}]',
    ],
)
def test_garbage_in_the_browsers_store_harms_nothing(
    person: Person, app: App, garbage: str
) -> None:
    """It is passed over, and a new video is kept as ever."""
    person.driver.get(app.url)
    script = "localStorage.setItem('kling-videos', arguments[0])"
    person.driver.execute_script(script, garbage)
    ask_for(person, app, "Clean again")
    person.driver.refresh()
    assert person.text("#videos .prompt") == "Clean again"
    assert len(person.driver.find_elements(By.CSS_SELECTOR, "#videos li")) == 1


def test_a_video_that_nobody_knows_is_told_in_plain_words(
    person: Person, app: App
) -> None:
    """No id of a request, no Python, and no bill that is none."""
    person.driver.get(app.url)
    kept = '[{"id": "no-such-id", "prompt": "Gone", "model": "m", "since": 1}]'
    script = "localStorage.setItem('kling-videos', arguments[0])"
    person.driver.execute_script(script, kept)
    person.driver.refresh()
    person.until(lambda: person.text("#videos .status") == "trouble")
    message = "The video service knows no such video."
    assert person.text("#videos .trouble") == message


def test_the_price_and_the_balance_stand_beside_the_button(
    person: Person, app: App
) -> None:
    """Before the click, and for what is chosen; the charge is seen afterwards."""
    person.driver.get(app.url)
    person.choose("#kind", "text-to-video")
    person.choose("#model", TEXT_MODEL)
    person.choose("#field-duration", "5")
    person.until(lambda: "$0.85" in person.text("#price"))
    assert "You have $1,000,000.00." in person.text("#price")
    person.choose("#field-duration", "10")
    person.until(lambda: "$1.70" in person.text("#price"))
    person.find("#field-prompt").send_keys("Ten seconds")
    person.find("#send").click()
    person.until(lambda: person.is_playing("#videos video"))
    person.until(lambda: "You have $999,998.30." in person.text("#price"))


@SLOW
def test_a_restart_of_the_server_in_the_middle_loses_nothing(
    person: Person, app: App, emulator: Emulator
) -> None:
    """The page connects again by itself; an id is all that the app needs."""
    ask_for(person, app, "A cat with nine lives")
    app.kill()
    app.start()
    person.until(lambda: person.is_playing("#videos video"))
    assert len(emulator.creates) == 1


def test_several_videos_come_at_once(person: Person, app: App) -> None:
    """A second one can be asked for while the first is under way."""
    ask_for(person, app, "The first")
    person.find("#field-prompt").clear()
    person.find("#field-prompt").send_keys("The second")
    person.find("#send").click()
    script = "return document.querySelectorAll('#videos .completed').length"
    person.until(lambda: person.driver.execute_script(script) == 2)
    assert person.text("#videos li .prompt") == "The second"


def test_the_emulators_page_shows_it_live(
    person: Person, app: App, emulator: Emulator
) -> None:
    """Status, counts and the playing video, without a reload."""
    person.driver.get(emulator.base_url)
    assert "AIMLAPI_BASE_URL" in person.text("#empty")
    person.driver.switch_to.new_window("tab")
    ask_for(person, app, "<b>A cat</b>")
    page, _ = person.driver.window_handles
    person.driver.switch_to.window(page)
    person.until(lambda: person.is_playing("#gallery video"))
    assert person.text("#gallery .prompt") == "<b>A cat</b>"
    assert person.text("#count") == "1"
    person.find("#gallery summary").click()
    assert emulator.creates[0].generation_id in person.text("#gallery .id")
