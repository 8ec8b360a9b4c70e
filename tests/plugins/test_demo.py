"""The demo page: what it computes, and in headless Chromium from the upload to the box that is downloaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import CLASSES, THRESHOLD, write_run

from sat_peft import Localizer
from sat_peft.commands import demo as command
from sat_peft.errors import UsageError
from sat_peft.evaluation.baselines.cam import LinearCam
from sat_peft.evaluation.frozen import save_trained
from sat_peft.plugins import demo
from sat_peft.prediction.localizer import find_trained

SIZE = (120, 80)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
WAIT = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with the weights of CAM, which serve attention rollout too."""
    run = write_run(tmp_path_factory.mktemp("demo"))
    torch.manual_seed(1)
    (run / "baselines").mkdir()
    save_trained(LinearCam(find_trained(run).create_backbone(), len(CLASSES)), run / "baselines" / "cam.safetensors")
    return run


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.effect_noise(SIZE, 90).convert("RGB").save(file)
    return file


@pytest.fixture(scope="module")
def methods(run):
    return demo.Methods(run)


def test_all_methods_of_the_run_localise_the_class_that_sat_predicts(run, photo, methods):
    found = methods(str(photo))
    [expected] = Localizer.from_pretrained(run)(photo)
    assert (
        list(found.localizations)
        == methods.titles
        == ["SAT", "CAM", "class attention", "attention rollout", "TokenCut"]
    )
    assert {one.label for one in found.localizations.values()} == {expected.label}
    sat = found.localizations["SAT"]
    np.testing.assert_array_equal(sat.map, expected.map)
    assert sat.box.tolist() == expected.box.tolist()
    assert not any(np.array_equal(found.localizations[title].map, sat.map) for title in methods.titles[1:])


def test_all_methods_have_the_augmentation_of_the_run(run, photo, methods, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tta": "edges"}))
    refined, plain = demo.Methods(copy)(str(photo)).localizations, methods(str(photo)).localizations
    assert {one.map.shape for one in refined.values()} == {(64, 64)}
    assert {one.map.shape for one in plain.values()} == {plain["SAT"].map.shape} != {(64, 64)}
    assert [one.score for one in refined.values()] == pytest.approx([one.score for one in plain.values()])


def test_an_adapter_alone_has_no_baselines(run, photo):
    alone = demo.Methods(run / "adapter", weights=run.parent / "model.safetensors")
    assert list(alone(str(photo)).localizations) == ["SAT"]


def test_threshold_moves_the_boxes_of_every_method(methods, photo):
    found = methods(str(photo))
    for threshold in (0.2, 1.0):
        moved = demo.record(demo.boxes_at(found, threshold), threshold)
        assert moved["threshold"] == threshold
        for title in methods.titles:
            x0, y0, x1, y1 = moved["boxes_by_method"][title]
            assert 0 <= x0 < x1 <= SIZE[0]
            assert 0 <= y0 < y1 <= SIZE[1]
    # Nothing is above 1: the whole image.
    assert moved["box"] == [0, 0, *SIZE]
    assert demo.record(demo.boxes_at(found, 0.9), 0.9)["box"] != moved["box"]


def test_unreadable_image_is_named(methods, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"text\.jpg.* cannot be read"):
        methods(str(tmp_path / "text.jpg"))


def test_without_gradio_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sat_peft\[demo\]'"):
        command.main(command.Config(run=tmp_path))


@pytest.fixture(scope="module")
def address(methods, tmp_path_factory):
    """Where the page is served."""
    pytest.importorskip("gradio", reason="the page needs gradio, of the extra `demo`")
    page = demo.build_page(methods, "run", tmp_path_factory.mktemp("downloads"))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield address
    page.close()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def browser(downloads):
    webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tested in a browser by selenium")
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_window_size(1280, 1000)
    yield driver
    driver.quit()


@pytest.mark.slow
def test_from_upload_to_the_downloaded_box(address, browser, downloads, methods, photo):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def found(selector: str) -> list:
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def until(condition):
        return WebDriverWait(browser, WAIT).until(lambda _: condition())

    def pictures() -> list[str]:
        return [picture.get_attribute("src") for picture in found(".map img")]

    def saved() -> dict | None:
        files = list(downloads.glob("*.json"))
        return json.loads(files[0].read_text()) if files else None

    browser.get(address)
    [upload] = until(lambda: found("#image input[type=file]"))
    upload.send_keys(str(photo))
    until(lambda: len(pictures()) == len(methods.titles))
    sat = methods(str(photo)).localizations["SAT"]
    until(lambda: sat.label in found("#class")[0].text)
    assert f"{round(100 * sat.score)}%" in found("#class")[0].text

    first = pictures()
    slider = found("#threshold input[type=number]")[0]
    assert float(slider.get_attribute("value")) == THRESHOLD
    slider.send_keys(Keys.CONTROL, "a")
    slider.send_keys("0.9", Keys.TAB)
    until(lambda: not set(first) & set(pictures()))

    until(lambda: found("#download")[0].is_enabled())
    found("#download")[0].click()
    told = until(saved)
    [expected] = methods.sat(photo, threshold=0.9)
    assert (told["image_id"], told["threshold"], told["label"]) == ("photo.png", 0.9, sat.label)
    assert told["box"] == told["boxes_by_method"]["SAT"] == expected.box.tolist()
    assert list(told["boxes_by_method"]) == methods.titles
