"""The ML backend for Label Studio: over HTTP, with images from a server, against Label Studio's SDK and itself."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import CLASSES, write_run

from sat_peft import Localizer
from sat_peft.commands.console import main
from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.writing import PredictionSet, write_format
from sat_peft.errors import UsageError
from sat_peft.prediction.predict import _prediction

pytest.importorskip("label_studio_sdk", reason="the backend needs label-studio-sdk, of the extra `label_studio`")

import requests
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface

from sat_peft.plugins.label_studio import Backend, BackendServer

TOKEN = "a-token"
SIZES = {"one.png": (90, 60), "two.png": (50, 80)}


def interface(tag: str, labels=tuple(CLASSES)) -> str:
    inner = "".join(f'<Label value="{name.replace("&", "&amp;").replace("<", "&lt;")}"/>' for name in labels)
    return f'<View><Image name="picture" value="$photo"/><{tag} name="drawn" toName="picture">{inner}</{tag}></View>'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("label_studio"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@contextlib.contextmanager
def served(server):
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def images_at(images):
    """Address of a server of the images, and the headers of the requests that it got."""
    got = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            got.append(dict(self.headers))
            super().do_GET()

        def log_message(self, *args):
            pass

    with served(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=images))) as address:
        yield address, got


@pytest.fixture
def backend_at(run, monkeypatch):
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with served(BackendServer(Backend(Localizer.from_pretrained(run), multi=True), "127.0.0.1", 0)) as address:
        yield address


def asked(address: str, method: str, path: str, content=None) -> tuple[int, str, dict]:
    """Status, its line, and the answer."""
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.reason, json.loads(response.read())


def request_of(config: str, *photos: str) -> dict:
    """As Label Studio asks for predictions."""
    tasks = [{"id": number, "data": {"photo": photo}} for number, photo in enumerate(photos, 1)]
    return {"tasks": tasks, "project": "3.17000", "label_config": config, "params": {"context": None}}


def test_health_and_version_are_told(backend_at, run):
    assert asked(backend_at, "GET", "/health")[::2] == (200, {"status": "UP", "model_class": "SpatialAwareToken"})
    localizer = Localizer.from_pretrained(run)
    version = f"{localizer.version} (threshold 0.45, multi)"
    assert asked(backend_at, "GET", "/versions?project=1")[2] == {"versions": [version]}
    setup = {"project": "3.17000", "schema": interface("RectangleLabels"), "hostname": "", "access_token": ""}
    assert asked(backend_at, "POST", "/setup", setup)[::2] == (200, {"model_version": version})


@pytest.mark.parametrize("tag", ["RectangleLabels", "PolygonLabels", "BrushLabels"])
def test_regions_are_those_of_the_localizer_and_valid_for_the_sdk(backend_at, images_at, images, run, tag):
    config = interface(tag)
    address, _ = images_at
    status, _, answer = asked(
        backend_at, "POST", "/predict", request_of(config, *[f"http://{address}/{name}" for name in SIZES])
    )
    assert status == 200
    localizer = Localizer.from_pretrained(run)
    for (name, (width, height)), prediction in zip(SIZES.items(), answer["results"], strict=True):
        assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []
        [found] = localizer(images / name, multi=True)
        assert (prediction["score"], prediction["model_version"]) == (
            found.score,
            Backend(localizer, multi=True).version,
        )
        values = [region["value"] for region in prediction["result"]]
        assert [value[tag.lower()] for value in values] == [[found.label]] * len(values)
        if tag == "RectangleLabels":
            corners = [[v["x"], v["y"], v["x"] + v["width"], v["y"] + v["height"]] for v in values]
            np.testing.assert_allclose(np.array(corners) / 100 * [width, height, width, height], found.boxes)
        elif tag == "PolygonLabels":
            outlines = [points for region in found.polygons() for points in region]
            for value, points in zip(values, outlines, strict=True):
                np.testing.assert_allclose(np.array(value["points"]) / 100 * [width, height], points)
        else:
            masks = [decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] > 0 for value in values]
            np.testing.assert_array_equal(masks, found.masks())


def test_a_task_without_a_readable_image_has_no_prediction_and_the_others_have(backend_at, images_at, caplog):
    address, _ = images_at
    request = request_of(
        interface("RectangleLabels"), *[f"http://{address}/{name}" for name in ("gone.png", "broken.png", "one.png")]
    )
    request["tasks"].append({"id": 4, "data": {}})
    _, _, answer = asked(backend_at, "POST", "/predict", request)
    gone, broken, one, without = answer["results"]
    assert gone == broken == without == []
    assert one["result"]
    assert [f"task {number} has no prediction" in caplog.text for number in (1, 2, 3, 4)] == [True, True, False, True]


def test_token_of_label_studio_goes_to_label_studio_alone(backend_at, images_at, monkeypatch):
    address, got = images_at
    config = interface("RectangleLabels")
    photo = f"http://{address}/one.png"
    setup = {"project": "3.17000", "schema": config, "hostname": f"http://{address}", "access_token": TOKEN}
    asked(backend_at, "POST", "/setup", setup)
    asked(backend_at, "POST", "/predict", request_of(config, photo))
    assert got.pop()["Authorization"] == f"Token {TOKEN}"
    asked(backend_at, "POST", "/setup", setup | {"hostname": "http://elsewhere.invalid"})
    asked(backend_at, "POST", "/predict", request_of(config, photo))
    assert "Authorization" not in got.pop()
    # A key of the environment needs the address that it is for: none that a request names gets it.
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a-secret")
    asked(backend_at, "POST", "/setup", setup | {"access_token": None, "project": "4.1"})
    asked(backend_at, "POST", "/predict", request_of(config, photo) | {"project": "4.1"})
    assert "Authorization" not in got.pop()


def test_address_and_key_of_the_environment_come_first(run, images_at, monkeypatch):
    address, got = images_at
    monkeypatch.setenv("LABEL_STUDIO_URL", f"http://{address}")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    backend, config = Backend(Localizer.from_pretrained(run)), interface("RectangleLabels")
    backend.setup({"project": "3.17000", "schema": config, "hostname": "http://localhost:1", "access_token": "other"})
    backend.predict(request_of(config, f"http://{address}/one.png"))
    assert got.pop()["Authorization"] == f"Token {TOKEN}"


def test_version_tells_what_regions_depend_on(run):
    versions = [
        Backend(Localizer.from_pretrained(run, **options), multi=multi).version
        for options in ({}, {"threshold": 0.6}, {"tta": "flip"})
        for multi in (False, True)
    ]
    assert len(set(versions)) == 6


def test_class_without_a_label_in_the_project_has_no_region(backend_at, images_at, images, run):
    [found] = Localizer.from_pretrained(run)(images / "one.png")
    others = [name for name in CLASSES if name != found.label]
    request = request_of(interface("RectangleLabels", others), f"http://{images_at[0]}/one.png")
    [prediction] = asked(backend_at, "POST", "/predict", request)[2]["results"]
    assert (prediction["result"], prediction["score"]) == ([], found.score)


@pytest.mark.parametrize("outlined", [False, True])
def test_what_predict_writes_is_valid_and_comes_back_from_the_converter_once_it_is_accepted(
    run, images, tmp_path, outlined
):
    localizer = Localizer.from_pretrained(run)
    predictions = []
    for name in SIZES:
        [found] = localizer(images / name, multi=True)
        predictions.append(_prediction(name, found, outlined))
    written = PredictionSet(predictions, CLASSES, protocol="original", threshold=0.45, threshold_source="")
    folder = write_format("label_studio", tmp_path, written)
    config, tasks = (folder / "labels.xml").read_text(), json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        [prediction] = task["predictions"]
        assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []
        task |= {"id": number, "annotations": [{"id": number, "result": prediction["result"]}], "predictions": []}
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    converter = Converter(config, str(tmp_path), download_resources=False)
    converter.convert_to_coco(str(tmp_path / "export.json"), str(tmp_path / "coco"), is_dir=False)
    coco = json.loads((tmp_path / "coco" / "result.json").read_text())
    for number, (image, prediction) in enumerate(zip(coco["images"], predictions, strict=True)):
        assert (image["width"], image["height"]) == prediction.image_size
        found = [each for each in coco["annotations"] if each["image_id"] == number]
        if outlined:
            outlines = [points for region in prediction.polygons for points in region]
            corners = [np.concatenate([np.min(points, 0), np.max(points, 0)]) for points in outlines]
        else:
            corners = prediction.boxes
        np.testing.assert_allclose([each["bbox"] for each in found], from_xyxy(corners, "xywh"), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("<View>", "cannot be read"),
        (None, "cannot be read"),
        (interface("KeyPointLabels"), "<RectangleLabels> or <PolygonLabels> or <BrushLabels>"),
        (interface("RectangleLabels", ["cat"]), "(cat) is a class of the model"),
    ],
)
def test_project_that_does_not_fit_is_refused_in_the_line_that_label_studio_shows(backend_at, config, told):
    for path, request in (("/setup", {"project": "1.1", "schema": config}), ("/predict", request_of(config))):
        status, line, answer = asked(backend_at, "POST", path, request)
        assert status == 400
        assert told in line
        assert told in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "told"),
    [
        ("GET", "/nowhere", None, 404, "/health"),
        ("POST", "/health", {}, 404, "/predict"),
        ("POST", "/predict", b"{", 400, "JSON"),
        ("POST", "/predict", [1], 400, "JSON object"),
        ("POST", "/predict", {"label_config": interface("RectangleLabels"), "tasks": 3}, 400, "list of tasks"),
        ("POST", "/webhook", {"action": "START_TRAINING"}, 400, "sat-peft train"),
        ("POST", "/webhook", {"action": "ANNOTATION_CREATED"}, 200, ""),
    ],
)
def test_other_requests(backend_at, method, path, content, status, told):
    answer = asked(backend_at, method, path, content)
    assert answer[0] == status
    assert told in answer[1]


def test_request_that_is_too_long_is_not_read(backend_at):
    connection = http.client.HTTPConnection(backend_at, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(2**40))
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_port_that_is_taken_is_told(run, backend_at):
    with pytest.raises(UsageError, match="--port"):
        BackendServer(Backend(Localizer.from_pretrained(run)), "127.0.0.1", int(backend_at.rpartition(":")[2]))


def test_command_tells_its_address_and_ends_at_an_interruption(run, monkeypatch, capsys):
    def interrupt(server):
        assert server.server_port > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(BackendServer, "serve_forever", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["label-studio", "--run", str(run), "--port", "0"])
    assert end.value.code == 1
    told = capsys.readouterr()
    version = Localizer.from_pretrained(run).version
    assert f"{version} (threshold 0.45) is at http://127.0.0.1:" in told.out
    assert "the backend is closed" in told.err


@pytest.fixture
def label_studio(tmp_path):
    """Address of a Label Studio that was started for the test."""
    program = shutil.which("label-studio")
    if program is None:
        pytest.skip("Label Studio itself is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", tmp_path / "data"]
    user = ["--username", "someone@example.org", "--password", "a-long-password", "--user-token", TOKEN]
    environment = os.environ | {
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "HOST": f"http://127.0.0.1:{port}",
    }
    environment.pop("PYTHONPATH", None)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, "start", *options, *user], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(180):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_label_studio_itself_gets_the_boxes_of_its_uploads(label_studio, backend_at, images, run):
    client = LabelStudio(base_url=label_studio, api_key=TOKEN)
    project = client.projects.create(title="Photos", label_config=interface("RectangleLabels"))
    for name in SIZES:
        requests.post(
            f"{label_studio}/api/projects/{project.id}/import",
            files={"file": (name, (images / name).read_bytes(), "image/png")},
            headers={"Authorization": f"Token {TOKEN}"},
            timeout=60,
        ).raise_for_status()
    backend = client.ml.create(url=f"http://{backend_at}", project=project.id, title="sat_peft")
    localizer = Localizer.from_pretrained(run)
    assert client.ml.get(id=backend.id).model_version == Backend(localizer, multi=True).version
    client.actions.create(id="retrieve_tasks_predictions", project=project.id, selected_items={"all": True})
    tasks = list(client.tasks.list(project=project.id, fields="all"))
    assert len(tasks) == len(SIZES)
    for task in tasks:
        name = next(name for name in SIZES if task.data["photo"].endswith(name))
        [found] = localizer(images / name, multi=True)
        [prediction] = task.predictions
        corners = [
            [v["x"], v["y"], v["x"] + v["width"], v["y"] + v["height"]]
            for v in (region["value"] for region in prediction.result)
        ]
        np.testing.assert_allclose(np.array(corners) / 100 * (SIZES[name] * 2), found.boxes)
        assert prediction.score == pytest.approx(found.score)
