"""report.html in headless Chromium, as somebody uses it: mouse, keyboard, phone, filters."""

import json
import shutil

import pytest
from run_folders import CLASSES, HOSTILE, write_large_gallery, write_run

from sat_peft.report.page import write_report
from sat_peft.runs.folder import RunFolder

webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tested in a browser by selenium")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "run", 12))


@pytest.fixture
def page(browser, report):
    """The page, freshly opened in a desktop window."""
    show(browser, report, 1280, 900)
    return browser


def show(browser, path, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())


def all_of(page, selector: str) -> list:
    return page.find_elements(By.CSS_SELECTOR, selector)


def texts(page, selector: str) -> list[str]:
    return [found.text for found in all_of(page, selector)]


def shown_iou(page) -> list[float]:
    captions = texts(page, ".card .caption.sub:nth-of-type(3)")
    return [float(text.removeprefix("IoU ")) for text in captions]


def press(page, *keys: str) -> None:
    for key in keys:
        ActionChains(page).send_keys(key).perform()


def slide(page, name: str, value: float) -> None:
    page.execute_script(
        "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];"
        "slider.dispatchEvent(new Event('input', { bubbles: true }));",
        name,
        value,
    )


def test_page_opens_without_errors_and_asks_for_nothing(page, report):
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} <= {report.as_uri(), "data:,", "about:blank"}
    assert report.as_uri() in asked


def test_images_come_worst_first_with_their_boxes_and_maps(page):
    iou = shown_iou(page)
    assert len(iou) == 12
    assert iou == sorted(iou)
    loaded = "return [...document.querySelectorAll('.card img')].every((i) => i.complete && i.naturalWidth === 60)"
    assert page.execute_script(loaded)
    Select(page.find_element(By.ID, "order")).select_by_value("-iou")
    assert shown_iou(page) == sorted(iou, reverse=True)


def test_boxes_lie_where_they_belong(page):
    page.find_element(By.CSS_SELECTOR, ".card").click()
    shares = page.execute_script(
        "const stage = document.querySelector('#viewer .stage').getBoundingClientRect();"
        "return Object.fromEntries([...document.querySelectorAll('#viewer .stage')[0].querySelectorAll('rect')]"
        ".map((rect) => [rect.getAttribute('class'), rect.getBoundingClientRect()])"
        ".map(([kind, box]) => [kind, [(box.left - stage.left) / stage.width, (box.top - stage.top) / stage.height,"
        "(box.right - stage.left) / stage.width, (box.bottom - stage.top) / stage.height]]));"
    )
    # The worst image: the true box is its left twelfth, the predicted one its left half.
    assert shares["true"] == pytest.approx([0, 0, 1 / 12, 1], abs=0.02)
    assert shares["predicted"] == pytest.approx([0, 0, 1 / 2, 1], abs=0.02)
    ratio = "const b = document.querySelector('#viewer .stage').getBoundingClientRect(); return b.width / b.height"
    assert page.execute_script(ratio) == pytest.approx(60 / 40, rel=0.01)


def test_maps_are_drawn_in_their_colours(page):
    page.find_element(By.CSS_SELECTOR, ".card").click()
    rows = page.execute_script(
        "return [...document.querySelectorAll('#viewer canvas')].map((canvas) =>"
        "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, 1).data])"
    )
    assert len(rows) == 3  # the localisation map and two blocks
    assert all(len(row) == 4 * 6 for row in rows)
    first_block, second_block = rows[1], rows[2]
    high, low = first_block[:4], first_block[-4:]
    assert first_block == high * 3 + low * 3
    assert high != low
    assert second_block == low * 6
    assert high[3] == low[3] == 255


def test_classes_and_iou_filter_the_images(page):
    choice = Select(page.find_element(By.ID, "class"))
    assert sorted(option.text for option in choice.options[1:]) == sorted(f"{name} (4)" for name in CLASSES)
    choice.select_by_visible_text(f"{HOSTILE} (4)")
    assert texts(page, ".card .caption:not(.sub)") == [HOSTILE] * 4
    assert page.find_element(By.ID, "count").text == "4 of 12 images"
    choice.select_by_index(0)
    slide(page, "low", 0.5)
    slide(page, "high", 0.8)
    found = shown_iou(page)
    assert found
    assert all(0.5 <= iou <= 0.8 for iou in found)
    assert page.find_element(By.ID, "low-value").text == "0.50"
    slide(page, "low", 0.9)  # pushes the other bound along
    assert page.find_element(By.ID, "high-value").text == "0.90"


def test_class_of_the_table_shows_its_images(page):
    next(button for button in all_of(page, ".show-class") if button.text == "cat").click()
    assert set(texts(page, ".card .caption:not(.sub)")) == {"cat"}


def test_names_are_never_run(page):
    page.find_element(By.CSS_SELECTOR, ".card").click()
    for _ in range(11):
        press(page, Keys.ARROW_RIGHT)
    assert page.execute_script("return window.hacked") is None
    assert all_of(page, "main script, dialog script, [onload]") == []


def test_keyboard_opens_walks_and_closes(page):
    page.execute_script("document.querySelector('.card').focus()")
    press(page, Keys.ARROW_RIGHT, Keys.ENTER)
    viewer = page.find_element(By.ID, "viewer")
    position = page.find_element(By.ID, "viewer-position")
    assert viewer.is_displayed()
    assert position.text == "2 / 12"
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert position.text == "4 / 12"
    press(page, *[Keys.ARROW_LEFT] * 9)
    assert position.text == "1 / 12"
    all_of(page, "#viewer h4")[0].click()  # takes the focus away
    press(page, Keys.ARROW_RIGHT)
    assert position.text == "2 / 12"
    press(page, Keys.ESCAPE)
    assert not viewer.is_displayed()
    focused = "return [...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    assert page.execute_script(focused) == 1


def test_large_view_tells_what_is_known_of_the_image(page):
    all_of(page, ".card")[0].click()
    text = page.find_element(By.ID, "viewer-content").text
    for words in ("test/cat/0.png", "cat (80 %)", "Maps of the spatial blocks", "1: 0.00 to 1.00", "60 x 40 pixels"):
        assert words in text
    page.find_element(By.ID, "close").click()
    assert not page.find_element(By.ID, "viewer").is_displayed()


def test_tables_sort_by_a_click_on_the_heading(page):
    def values():
        return texts(page, "#classes tbody td:nth-child(3)")

    heading = all_of(page, "#classes thead button")[2]
    heading.click()
    assert values() == ["100.0", "75.0", "75.0"]
    heading.click()
    assert values() == ["75.0", "75.0", "100.0"]
    assert all_of(page, "#classes thead th")[2].get_attribute("aria-sort") == "ascending"
    all_of(page, "#results thead button")[1].click()
    assert texts(page, "#results tbody th") == ["SAT", "centre box"]


def test_phone_needs_no_sideways_scrolling(browser, report):
    show(browser, report, 390, 844)
    width = "return document.documentElement.scrollWidth"
    assert browser.execute_script(width) == 390
    # The sections scroll their wide tables themselves; several images stand side by side.
    tops = browser.execute_script("return [...document.querySelectorAll('.card')].map((card) => card.offsetTop)")
    assert tops.count(tops[0]) == 3
    all_of(browser, ".card")[0].click()
    content = browser.find_element(By.ID, "viewer-content")
    assert browser.execute_script("return arguments[0].scrollWidth <= 390", content)
    assert browser.find_element(By.ID, "viewer").size["width"] == 390


def test_dark_mode_has_light_text_on_a_dark_ground(page):
    def brightness(expression: str) -> float:
        colour = page.execute_script(f"const s = getComputedStyle(document.body); return s.{expression}")
        return sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 3

    light = brightness("backgroundColor"), brightness("color")
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    dark = brightness("backgroundColor"), brightness("color")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light[0] > 200 > 60 > light[1]
    assert dark[1] > 200 > 60 > dark[0]


def test_without_boxes_the_images_are_ordered_by_score(browser, tmp_path):
    show(browser, write_report(write_run(tmp_path / "run", 4, boxes=False)), 1280, 900)
    assert len(all_of(browser, ".card canvas")) == 4
    assert "IoU" not in browser.find_element(By.ID, "cards").text
    all_of(browser, ".card")[0].click()
    assert "not measured" in browser.find_element(By.ID, "viewer-content").text
    assert browser.get_log("browser") == []


def test_five_thousand_images_are_listed_step_by_step(browser, tmp_path):
    RunFolder(tmp_path / "run", {})
    write_large_gallery(tmp_path / "run", 5000, 200)
    show(browser, write_report(tmp_path / "run"), 1280, 900)
    assert browser.find_element(By.ID, "count").text == "200 of 5,000 images"
    assert len(all_of(browser, ".card")) == 60
    browser.find_element(By.ID, "more").click()
    assert len(all_of(browser, ".card")) == 120
    browser.find_element(By.ID, "pictured").click()
    assert browser.find_element(By.ID, "count").text == "5,000 of 5,000 images"
    Select(browser.find_element(By.ID, "order")).select_by_value("-iou")
    assert "no picture kept" in all_of(browser, ".card")[0].text
    all_of(browser, ".card")[59].click()
    press(browser, Keys.ARROW_RIGHT)  # beyond what the list shows yet
    assert browser.find_element(By.ID, "viewer-position").text == "61 / 5000"
    press(browser, Keys.ESCAPE)
    assert len(all_of(browser, ".card")) == 120
    assert browser.get_log("browser") == []
