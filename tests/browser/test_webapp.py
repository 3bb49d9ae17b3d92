"""The example app as a person meets it, in a real browser, on a real emulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from stage import App, Person

from kling_async import models
from kling_async.emulator import Emulator

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
    person.find("#videos li")


def polls(emulator: Emulator) -> int:
    """Count how often the app has asked."""
    return sum(it.method == "GET" and "/v2/" in it.path for it in emulator.requests)


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
    person.until(lambda: person.text("#videos .status") in {"queued", "generating"})
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
def test_two_tabs_on_one_generation_share_its_polls(
    person: Person, app: App, emulator: Emulator
) -> None:
    """Both see it end; the app has asked as often as for one."""
    ask_for(person, app, "One cat, two tabs")
    first = person.driver.current_window_handle
    person.driver.switch_to.new_window("tab")
    person.driver.get(app.url)
    person.until(lambda: person.is_playing("#videos video"))
    person.driver.switch_to.window(first)
    person.until(lambda: person.text("#videos .status") == "completed")
    assert len(emulator.creates) == 1
    # One loop: 0, 1, 2.5, 4.75, 8.1 s and so on; two would ask twice as often.
    assert polls(emulator) <= 7


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
