"""The report's page in a real browser: nothing is complained of, tables sort, sliders move, narrow screens do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.drawn import drawn_workspace

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no chromium and chromedriver here (apt-get install chromium chromium-driver)", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402 - what is above says whether there is one
from selenium.webdriver.common.keys import Keys  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report on three heads of four subjects."""
    grid = ["experiment", "--heads", "ridge,linear,ladder", "--volumes", "1,2", "--draws", "2", "--steps", "4"]
    commands = (["ingest", "data"], ["embed", "--size", "64"], [*grid, "--workers", "1"], ["report"])
    folder = tmp_path_factory.mktemp("page")
    return drawn_workspace(folder, commands, shape=(6, 48, 40), spacing_mm=(8.0, 5.0, 5.0)) / "report" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield started
    started.quit()


@pytest.fixture
def opened(browser, page):
    browser.set_window_size(1280, 900)
    browser.get(page.as_uri())
    return browser


def cells(browser, column: int) -> list[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#table tbody tr.mean")
    return [row.find_elements(By.TAG_NAME, "td")[column].text for row in rows]


def test_the_browser_has_nothing_to_complain_of(opened):
    assert opened.get_log("browser") == []


def test_a_column_sorts_down_and_then_up(opened):
    button = opened.find_elements(By.CSS_SELECTOR, "#table th button")[3]
    assert button.text == "Dice %"
    for order in ("descending", "ascending"):
        button.click()
        shown = [float(text) for text in cells(opened, 3)]
        assert shown == sorted(shown, reverse=order == "descending")
        assert opened.find_elements(By.CSS_SELECTOR, "#table th")[3].get_attribute("aria-sort") == order


def test_words_sort_by_the_alphabet(opened):
    opened.find_elements(By.CSS_SELECTOR, "#table th button")[0].click()
    assert cells(opened, 0) == sorted(cells(opened, 0), reverse=True)


def test_classes_are_shown_when_they_are_asked_for(opened):
    hidden = opened.find_element(By.CSS_SELECTOR, "#table tr.class")
    assert not hidden.is_displayed()
    opened.find_element(By.CSS_SELECTOR, "[data-classes]").click()
    assert hidden.is_displayed()


def test_the_slider_goes_through_the_volume(opened):
    figure = opened.find_element(By.CSS_SELECTOR, "figure[data-case]")
    slider = figure.find_element(By.CSS_SELECTOR, "input")
    seen = {}
    slider.send_keys(Keys.HOME)
    for _ in range(1 + int(slider.get_attribute("max"))):
        told = figure.find_element(By.TAG_NAME, "output").text
        picture = figure.find_element(By.TAG_NAME, "image").get_attribute("href")
        paths = [path.get_attribute("d") for path in figure.find_elements(By.CSS_SELECTOR, ".reference path")]
        seen[told] = (picture, *paths)
        slider.send_keys(Keys.ARROW_RIGHT)
    assert len(seen) > 2
    assert len(set(seen.values())) == len(seen), "every slice has a picture and outlines of its own"
    assert all(re.fullmatch(r"slice \d+ of 6", told) for told in seen)


@pytest.mark.parametrize("layer", ["reference", "found"])
def test_outlines_can_be_put_away(opened, layer):
    outline = opened.find_element(By.CSS_SELECTOR, f"figure[data-case] .{layer}")
    assert outline.value_of_css_property("display") != "none"
    opened.find_element(By.CSS_SELECTOR, f"[data-layer={layer}]").click()
    assert outline.value_of_css_property("display") == "none"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_itself_never_scrolls_sideways(opened, width):
    # Of an emulated screen: a window of Chromium is never narrower than 500 pixels.
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ink_and_paper_differ_in_both_themes(opened, theme):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    script = "const style = getComputedStyle({}); return style.color + ';' + style.backgroundColor"
    ink, paper = opened.execute_script(script.format("document.body")).split(";")
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ink, paper)]
    assert (
        (lightness[0] < 0.2 and lightness[1] > 0.9) if theme == "light" else (lightness[0] > 0.8 and lightness[1] < 0.2)
    )
    assert opened.execute_script("return getComputedStyle(document.querySelector('.plots svg')).color") == ink
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_learned_gate_is_drawn(opened):
    titles = [one.text for one in opened.find_elements(By.CSS_SELECTOR, ".plots h3")]
    assert titles == ["What more labels bring", "Volume by volume", "How they were fitted", "The learned gate"]
