"""report.html as a document: what it says of runs that ended well or badly, and that it needs nothing but itself."""

import cProfile
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import CLASSES, HOSTILE, evaluated, loader, write_large_gallery, write_run

from sat_peft.data.sources import Problems
from sat_peft.errors import UsageError
from sat_peft.evaluation.figures import MAIN_FIGURES
from sat_peft.evaluation.measure import Measured
from sat_peft.evaluation.trained import ProtocolMeasurement, TrainedMeasurement
from sat_peft.files.outputs import write_json_atomic
from sat_peft.localization import get_protocol
from sat_peft.report.evaluation import evaluation_contents, write_evaluation
from sat_peft.report.page import write_report
from sat_peft.runs.folder import RunFolder


class Page(HTMLParser):
    """The text, the elements and the data of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts, self.scripts = [], [], []
        self._raw = None
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._raw = ""

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.scripts += [self._raw] if tag == "script" else []
            self._raw = None

    def handle_data(self, data):
        if self._raw is None:
            self.texts.append(data)
        else:
            self._raw += data

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])


def draw(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run) -> Page:
    return draw(run)


def test_page_tells_figures_intervals_protocol_and_threshold(page):
    # The left half is right where the true box is from 3 to 12 twelfths of the width.
    for words in (
        "Protocol original , test split, 12 images, 3 classes",
        "95 % intervals of 20 bootstrap samples",
        "Thresholds: fixed: given.",
        "SAT localises best here.",
        "the image's own pixels and the plain IoU",
        "centre box 12.5",
        "2,000",
        "0.20 % of 1,002,000",
        "spatial token 64",
    ):
        assert words in page.text, words
    assert re.search(r"SAT 83\.3 \[\d+\.\d, \d+\.\d\]", page.text)
    assert "finished" in page.text
    assert "upper bound" not in page.text
    for name in ("torch", "python", "backbone", "data"):  # versions and configuration
        assert name in page.text


def test_head_of_the_page_tells_which_scenes_they_are(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"difficulty": "cluttered", "scene_seed": 2}))
    assert "difficulty cluttered scene seed 2" in draw(tmp_path / "run").text


def test_page_has_plots_as_text_and_lines(page):
    svgs = [tag for tag, _ in page.tags if tag == "svg"]
    assert len(svgs) == 4  # threshold, IoU, and the losses of two methods
    for words in ("Accuracy against the threshold", "IoU of the images", "classification", "total", "step"):
        assert words in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    named = [name for name in ids if not re.fullmatch(r"[mp][0-9a-f]{10}", name)]  # of shapes that plots may share
    assert len(named) == len(set(named))


def test_page_needs_nothing_but_itself(page, run):
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    style = re.search(r"<style>(.*?)</style>", (run / "report.html").read_text(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_names_are_text_and_never_markup(page, run):
    assert len(page.scripts) == 2  # the data and the page's own
    assert "window.hacked" not in page.scripts[1]
    assert HOSTILE in page.text
    assert {record["label"] for record in page.data["records"]} == set(CLASSES)
    assert HOSTILE not in (run / "report.html").read_text()
    assert not any("onload" in attributes for _, attributes in page.tags)
    buttons = [attributes["data-class"] for _, attributes in page.tags if "data-class" in attributes]
    assert sorted(buttons) == sorted(CLASSES)


def test_class_table_counts_the_images_of_each_class(page):
    # cat: images 0, 3, 6 and 9, of which the last three are localised, and whose class is always right.
    assert "cat 4 75.0 75.0 100.0" in page.text
    assert f"{CLASSES[2]} 4 100.0 0.0 0.0" in page.text


def test_data_holds_boxes_pictures_and_maps(page):
    records = page.data["records"]
    assert len(records) == 12
    record = records[5]
    assert record["box"] == [0, 0, 30, 40]
    assert record["size"] == [60, 40]
    assert record["grid"] == [4, 6]
    assert len(record["map_ranges"]) == 3
    assert record["thumbnail"]
    assert record["maps"]


def test_oracle_threshold_is_called_by_its_name(tmp_path):
    text = draw(write_run(tmp_path / "run", 4, threshold="oracle")).text
    assert "Oracle thresholds: they were chosen on the very images that are evaluated here" in text
    assert "oracle: best gt_known, chosen on the test set itself" in text


def test_without_boxes_maps_are_shown_and_no_accuracy(tmp_path):
    page = draw(write_run(tmp_path / "run", 4, boxes=False))
    assert "Localisation not measured; maps are shown" in page.text
    assert "GT-known Loc 0" not in page.text
    assert "Top-1 Cls" in page.text
    assert all(record["iou"] is None and record["maps"] for record in page.data["records"])
    assert not any(attributes.get("id") == "low" for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "This run was interrupted"),
        (UsageError("the loss diverged at step 3 <b>here</b>"), "the loss diverged at step 3 <b>here</b>"),
        (RuntimeError("a bug"), "RuntimeError: a bug"),
    ],
)
def test_run_that_broke_off_is_drawn_from_what_it_left(tmp_path, error, words):
    def breaks_off():
        with RunFolder(tmp_path / "run", {"backbone": "vit", "data": tmp_path / "photos"}) as run:
            run.log(method="SAT", step=1, total=3.0)
            raise error

    with pytest.raises(type(error)):
        breaks_off()
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"method": "SAT", "st')  # killed while writing
    page = draw(tmp_path / "run")
    assert words in page.text
    assert str(tmp_path) not in page.text
    assert str(Path(__file__).parent) not in page.text  # of the traceback
    assert "No results yet" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 1
    assert len(page.scripts) == 1


def test_running_run_says_so(tmp_path):
    RunFolder(tmp_path / "run", {"backbone": "vit"})
    assert "This run has not ended , or it was killed" in draw(tmp_path / "run").text


@pytest.mark.parametrize(
    "name",
    [
        *("status.json", "config.json", "versions.json", "parameters.json", "measurement.json", "results.json"),
        *("metrics.jsonl", "gallery/gallery.json", "gallery/records.jsonl", "gallery/000000.jpg", "gallery/000000.png"),
    ],
)
def test_page_does_without_any_file_that_is_missing_or_damaged(run, tmp_path, name):
    def copy(folder):
        for path in run.rglob("*"):
            if path.is_file():
                (folder / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
                (folder / path.relative_to(run)).write_bytes(path.read_bytes())
        return folder

    missing, damaged = copy(tmp_path / "missing"), copy(tmp_path / "damaged")
    (missing / name).unlink()
    assert "missing" in draw(missing).text
    (damaged / name).write_text('{"half": \n')
    text = draw(damaged).text
    if name == "gallery/000000.jpg":  # the browser finds out
        return
    assert f"Unreadable: {name.removesuffix('.png')}" in text


def test_run_without_measurement_has_the_figures_alone(tmp_path):
    results = {
        "protocol": "original",
        "methods": {"sat": {"gt_known": 80.0, "top1_cls": 70.0}, "cam": {"gt_known": 40.0, "top1_cls": 60.0}},
        "thresholds": {"sat": 0.25, "cam": 0.5},
        "threshold_source": "validation: best gt_known",
    }
    with RunFolder(tmp_path / "run", {}) as run:
        run.write_json("results.json", results)
    text = draw(tmp_path / "run").text
    assert "SAT 80.0 70.0 0.25 CAM 40.0 60.0 0.5" in text
    assert "Thresholds: validation: best gt_known." in text
    assert "intervals" not in text


def write_protocols(folder, protocols=("original", "wsol")):
    measurements = []
    for protocol in protocols:
        sat = Measured.of("SAT", evaluated(loader(12, protocol=protocol), protocol=protocol))
        box = Measured("centre box", dict.fromkeys(MAIN_FIGURES, 12.5))
        measurements.append(ProtocolMeasurement(get_protocol(protocol), (64, 64), False, {"sat": sat, "box": box}))
    image_ids, labels = [f"image {index}" for index in range(12)], [CLASSES[index % 3] for index in range(12)]
    about = {"split": "validation", "data": "DIR", "backbone": "vit", "adapter": "A", "bootstrap": 20}
    measured = TrainedMeasurement(measurements, image_ids, labels, 3, Problems())
    write_evaluation(folder, *evaluation_contents(about, measured))


def test_evaluations_of_a_run_are_shown_below_its_own(run, tmp_path):
    folder = write_run(tmp_path / "run", 4)
    write_protocols(folder / "evaluation")
    page = draw(folder)
    headings = re.findall(r"Protocol (\w+) , (\w+) split", page.text)
    assert headings == [("original", "test"), ("original", "validation"), ("wsol", "validation")]
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 + 3 * 2  # losses, and two of each measurement
    assert "MaxBoxAccV2 take, by definition, the best threshold" in page.text
    assert "cat 2 " in page.text  # the classes are those of the run's own test images


def test_evaluation_folder_alone_can_be_drawn_and_evaluated_again(tmp_path):
    write_protocols(tmp_path / "evaluation", ["original"])
    page = draw(tmp_path / "evaluation")
    assert get_protocol("original").source in page.text
    assert "cat 4 75.0 75.0 100.0" in page.text
    assert re.search(r"3 classes SAT localises best here: [\d.]+ % .*, the next, centre box, 12.5 %", page.text)
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    write_protocols(tmp_path / "evaluation", ["original"])
    assert not (tmp_path / "evaluation/report.html").exists()  # it showed figures that are no longer there


def test_long_training_is_drawn_with_bounded_curves(tmp_path):
    with RunFolder(tmp_path / "run", {}) as run:
        for step in range(20_000):
            run.log(method="SAT", step=step, total=1.0 + step % 2)
    assert write_report(tmp_path / "run").stat().st_size < 120_000


def test_output_is_a_page_and_nothing_else(run, tmp_path):
    target = tmp_path / "page.html"
    assert write_report(run, target) == target
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    for output, words in (
        (run / "config.json", "is no HTML file"),
        (tmp_path / "absent/page.html", "does not exist; create it"),
    ):
        with pytest.raises(UsageError, match=words):
            write_report(run, output)
    with pytest.raises(UsageError, match="is no folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "thesis").mkdir()
    write_json_atomic(tmp_path / "thesis/results.json", {"words": 50_000})
    with pytest.raises(UsageError, match=r"is no run folder.*status\.json"):
        write_report(tmp_path / "thesis")


def test_command_draws_and_says_where(run, tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "sat_peft", "report", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    drawn = command(run, "--output", tmp_path / "page.html")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == f"Written to {tmp_path / 'page.html'}\n"
    refused = command(tmp_path / "nowhere")
    assert refused.returncode == 2
    assert "is no folder" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_page_of_five_thousand_images_is_below_25_megabytes_and_its_cost_grows_with_their_number(tmp_path):
    calls = {}
    for count, pictures in ((500, 80), (5000, 800)):
        RunFolder(tmp_path / str(count), {})
        write_large_gallery(tmp_path / str(count), count, pictures)
        profile = cProfile.Profile()
        page = profile.runcall(write_report, tmp_path / str(count))
        calls[count] = sum(entry.callcount for entry in profile.getstats())  # a cost that no machine changes
    assert page.stat().st_size < 25e6
    assert calls[5000] < 15 * calls[500]  # ten times the images; a quadratic cost would be a hundred times
    document = Page(page.read_text(encoding="utf-8"))
    assert len(document.data["records"]) == 5000
    assert "800 of 5,000 images: 800 lowest IoU" in document.text


def test_of_more_images_all_pictures_are_listed_and_the_tables_count_all(tmp_path):
    RunFolder(tmp_path / "run", {})
    write_large_gallery(tmp_path / "run", 12_000, 10)
    document = draw(tmp_path / "run")
    records = document.data["records"]
    assert 4000 <= len(records) <= 5000
    assert sum(record["thumbnail"] is not None for record in records) == 10
    assert f"Listed are {len(records):,} of 12,000 images" in document.text
    assert "class 7 12 50.0" in document.text  # twelve images of each of a thousand classes
