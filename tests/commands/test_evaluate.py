"""The evaluation as a user runs it, on a run of the few-shot recipe with a tiny random backbone."""

import importlib.util
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from processes import run_processes
from safetensors.torch import save_file
from tiny_run import write_weights

from sat_peft.commands import evaluate as command
from sat_peft.cpu import join_processes
from sat_peft.data import splits
from sat_peft.data.scenes import NOVEL_CLASSES, render_scene, scene_seed
from sat_peft.errors import UsageError

pytestmark = pytest.mark.usefixtures("threads")

ROOT = Path(__file__).parents[2]
CLASSES = NOVEL_CLASSES[:3]
TEST_IMAGES = 9
BASELINES = ("cam", "class_attention", "rollout", "tokencut", "tscam", "centre_box")
METHODS = ["sat", *BASELINES]


def write_folder(root: Path) -> Path:
    for split, number in (("train", 2), ("validation", 2), ("test", TEST_IMAGES // 3)):
        rows = []
        for scene_class in CLASSES:
            (root / split / scene_class.name).mkdir(parents=True)
            for index in range(number):
                scene = render_scene(scene_class, scene_seed(split, index), image_size=64)
                file_name = f"{scene_class.name}/{index}.png"
                Image.fromarray(scene.image).save(root / split / file_name)
                x0, y0, x1, y1 = scene.box.tolist()
                rows.append({"file_name": file_name, "objects": {"bbox": [[x0, y0, x1 - x0, y1 - y0]]}})
        if split != "train":
            (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def load_recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    few_shot = load_recipe("few_shot")
    few_shot.main(
        few_shot.Config(
            data=str(write_folder(folder / "data")),
            backbone="test_vit",
            weights=weights,
            image_size=64,
            steps=3,
            threads=1,
            baselines=BASELINES,
            tta="flip-edges",
            output=folder / "run",
        )
    )
    return folder / "run"


def evaluate(output: Path, **options) -> dict:
    """Runs the command and returns its results; few bootstrap samples, since their number changes no code path."""
    command.main(command.Config(**{"output": output, "bootstrap": 20, "threads": 1, **options}))
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory) -> tuple[Path, dict]:
    """One evaluation under every protocol, which several tests read."""
    output = tmp_path_factory.mktemp("evaluated") / "all"
    return output, evaluate(output, run=run, protocols=("original", "sat", "wsol", "tscam"), ten_crop=True)


def test_rebuilt_methods_have_the_figures_of_the_run(run, evaluated):
    """Adapter, baselines, data and thresholds are those of the run, so every figure is."""
    methods = evaluated[1]["protocols"]["original"]["methods"]
    trained = json.loads((run / "results.json").read_text())
    assert list(methods) == METHODS == list(trained["methods"])
    for name in METHODS:
        for figure, value in trained["methods"][name].items():
            assert methods[name]["summary"][figure] == value, (name, figure)
    for name, threshold in trained["thresholds"].items():
        assert methods[name]["threshold"] == threshold


def test_augmentation_is_that_of_the_run_unless_another_is_asked_for(run, evaluated, tmp_path):
    other = evaluate(tmp_path / "out", run=run, tta="none")
    assert (evaluated[1]["tta"], other["tta"]) == ("flip-edges", "none")
    figures = [each["protocols"]["original"]["methods"]["sat"] for each in (evaluated[1], other)]
    assert figures[0]["summary"] != figures[1]["summary"]
    assert "mirror image" in (evaluated[0] / "table.md").read_text()
    assert "mirror image" not in (tmp_path / "out" / "table.md").read_text()


def test_maps_of_all_methods_are_refined_along_edges_where_asked_for(run, evaluated, tmp_path):
    other = evaluate(tmp_path / "out", run=run, tta="flip")
    methods = [each["protocols"]["original"]["methods"] for each in (evaluated[1], other)]
    changed = {name for name in METHODS if methods[0][name]["summary"] != methods[1][name]["summary"]}
    assert changed == set(METHODS) - {"centre_box"}
    classified = [{name: each[name]["summary"]["top1_cls"] for name in METHODS} for each in methods]
    assert classified[0] == classified[1]
    assert "along the edges" in (evaluated[0] / "table.md").read_text()
    assert "along the edges" not in (tmp_path / "out" / "table.md").read_text()


def test_backbone_takes_the_size_that_the_protocol_fixes(evaluated):
    protocols = evaluated[1]["protocols"]
    assert {name: protocol["image_size"] for name, protocol in protocols.items()} == {
        "original": [64, 64],
        "sat": [224, 224],
        "wsol": [224, 224],
        "tscam": [224, 224],
    }
    assert {name for name, protocol in protocols.items() if protocol["ten_crop"]} == {"sat"}
    for protocol in protocols.values():
        assert list(protocol["methods"]) == METHODS


def test_only_the_protocol_that_defines_max_box_acc_reports_it(evaluated):
    for name, protocol in evaluated[1]["protocols"].items():
        summary = protocol["methods"]["sat"]["summary"]
        assert ("max_box_acc" in summary) == (name == "wsol")
        assert (summary["max_box_acc_v2"] is not None) == (name == "wsol")


def test_records_are_the_figures_image_by_image(evaluated, run):
    folder, results = evaluated
    records = [json.loads(line) for line in (folder / "records_original.jsonl").read_text().splitlines()]
    assert len(records) == TEST_IMAGES * (len(METHODS) - 1)  # the centre box has no records
    files = {f"test/{scene_class.name}/{i}.png" for scene_class in CLASSES for i in range(TEST_IMAGES // 3)}
    for method in METHODS[:-1]:
        of_method = [record for record in records if record["method"] == method]
        assert {record["image_id"] for record in of_method} == files
        summary = results["protocols"]["original"]["methods"][method]["summary"]
        assert np.mean([record["iou"] for record in of_method]) * 100 == pytest.approx(summary["mean_iou"])
        assert np.mean([record["correct"] for record in of_method]) * 100 == pytest.approx(summary["gt_known"])
        assert np.mean([record["label_rank"] == 0 for record in of_method]) * 100 == pytest.approx(summary["top1_cls"])
    assert all(record["image_id"].split("/")[1] == record["label"] for record in records)
    assert all(len(record["true_boxes"]) == 1 for record in records)


def test_table_and_plots_are_written_for_every_protocol(evaluated):
    folder, results = evaluated
    table = (folder / "table.md").read_text()
    for name in results["protocols"]:
        assert f"## Protocol `{name}`" in table
        for kind in ("accuracy", "iou"):
            with Image.open(folder / f"{kind}_{name}.png") as image:
                image.load()
                assert min(image.size) > 300
    for title in ("SAT", "CAM", "TS-CAM", "attention rollout", "centre box, side"):
        assert table.count(f"| {title}") == 4
    assert "validation: best iou30+iou50+iou70 on images that are not the test set" in table
    assert "Oracle" not in table
    assert "bootstrap" in table


def test_adapter_alone_gives_the_figures_of_the_run(run, weights, evaluated, tmp_path):
    adapter = tmp_path / "elsewhere" / "adapter"
    shutil.copytree(run / "adapter", adapter)
    data = str(run.parent / "data")
    results = evaluate(tmp_path / "out", adapter=adapter, weights=weights, data=data, tta="flip-edges")
    methods = results["protocols"]["original"]["methods"]
    assert list(methods) == ["sat", "centre_box"]
    assert methods["sat"] == evaluated[1]["protocols"]["original"]["methods"]["sat"]
    assert results["protocols"]["original"]["image_size"] == [64, 64]


def test_given_threshold_is_used_and_named(run, tmp_path):
    results = evaluate(tmp_path, run=run, threshold=0.35, baselines=("cam",))
    for method in results["protocols"]["original"]["methods"].values():
        assert (method["threshold"], method["threshold_source"]) == (0.35, "fixed: given")


def test_fixed_threshold_is_the_protocols_own_where_none_is_given(run, tmp_path):
    results = evaluate(tmp_path, run=run, threshold_source="fixed", baselines=(), protocols=("tscam",))
    method = results["protocols"]["tscam"]["methods"]["sat"]
    assert (method["threshold"], method["threshold_source"]) == (0.1, "fixed: default of protocol tscam")


def test_oracle_threshold_is_the_best_of_the_test_set_and_says_so(run, tmp_path):
    results = evaluate(tmp_path, run=run, threshold_source="oracle", baselines=("cam",))
    curves = json.loads((tmp_path / "curves.json").read_text())["original"]
    for name, method in results["protocols"]["original"]["methods"].items():
        assert method["summary"]["gt_known"] == max(curves[name]["gt_known"])
        assert "chosen on the test set itself" in method["threshold_source"]
    assert "chosen on the very images that are evaluated here" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("source", ["validation", "unsupervised", "fixed"])
def test_no_other_threshold_depends_on_the_test_set(run, tmp_path, source):
    """The test images are replaced by noise with other boxes: the thresholds stay."""
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    generator = np.random.default_rng(0)
    for file in (data / "test").glob("*/*.png"):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(file)
    metadata = data / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    metadata.write_text("\n".join(json.dumps(row | {"objects": {"bbox": [[0, 0, 9, 9]]}}) for row in rows))
    options = {"run": run, "threshold_source": source, "baselines": ("cam",), "bootstrap": 0}
    found = evaluate(tmp_path / "original", **options)["protocols"]["original"]["methods"]
    changed = evaluate(tmp_path / "changed", data=str(data), **options)["protocols"]["original"]["methods"]
    for name, method in found.items():
        assert changed[name]["threshold"] == method["threshold"]
        assert changed[name]["threshold_source"] == method["threshold_source"]
        assert changed[name]["summary"]["mean_iou"] != method["summary"]["mean_iou"]


def test_classes_may_be_called_like_their_folders_or_by_their_names(run, tmp_path):
    """The run's classes have names, the copy of its data has none; and the other way round."""
    options = {"baselines": (), "bootstrap": 0}
    plain = evaluate(tmp_path / "plain", run=run, **options)["protocols"]["original"]["methods"]
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    folders = [folder.name for folder in sorted((data / "train").iterdir())]
    shown = {folder: f"class {number}" for number, folder in enumerate(folders)}
    (data / "classes.json").write_text(json.dumps(shown))
    named = evaluate(tmp_path / "named", run=run, data=str(data), **options)
    assert named["protocols"]["original"]["methods"]["sat"]["summary"] == plain["sat"]["summary"]
    records = (tmp_path / "named" / "records_original.jsonl").read_text().splitlines()
    assert {json.loads(record)["label"] for record in records} == set(shown.values())

    trained = Path(shutil.copytree(run, tmp_path / "run"))
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    (trained / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"class_names": [*shown.values()]}))
    with pytest.raises(UsageError, match="only in the model: class 0"):
        evaluate(tmp_path / "unknown", run=trained, **options)
    (trained / "classes.json").write_text(json.dumps(shown))
    again = evaluate(tmp_path / "again", run=trained, **options)
    assert again["protocols"]["original"]["methods"]["sat"]["summary"] == plain["sat"]["summary"]


def test_results_tell_no_absolute_path(run, evaluated):
    output, results = evaluated
    assert (results["data"], results["run"], results["adapter"]) == ("data", "run", "adapter")
    assert str(run.parent) not in (output / "results.json").read_text() + (output / "table.md").read_text()
    assert str(run.parent) not in (run / "config.json").read_text() + (run / "report.html").read_text()
    assert str(run.parent) in (run / "paths.json").read_text()


def test_unsupervised_threshold_without_a_validation_split_reads_the_training_images(run, tmp_path):
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    shutil.rmtree(data / "validation")
    options = {"run": run, "data": str(data), "baselines": ("cam", "centre_box"), "bootstrap": 0}
    results = evaluate(tmp_path / "maps", threshold_source="unsupervised", **options)
    methods = results["protocols"]["original"]["methods"]
    assert list(methods) == ["sat", "cam"]
    assert methods["sat"]["threshold_source"].startswith("unsupervised")
    with pytest.raises(UsageError, match="needs a validation split with boxes"):
        evaluate(tmp_path / "scores", threshold_source="validation", **options)


def test_masks_of_part_scenes_give_pxap(weights, tmp_path, monkeypatch):
    for split, number in (("train", 1), ("validation", 1), ("test", 1)):
        monkeypatch.setitem(splits.SCENES_PER_CLASS, split, number)
    few_shot = load_recipe("few_shot")
    few_shot.main(
        few_shot.Config(
            backbone="test_vit",
            weights=weights,
            image_size=64,
            steps=1,
            threads=1,
            baselines=(),
            output=tmp_path / "run",
        )
    )
    command.main(command.Config(run=tmp_path / "run", bootstrap=20, threads=1))
    folder = tmp_path / "run" / "evaluation"
    method = json.loads((folder / "results.json").read_text())["protocols"]["original"]["methods"]["sat"]
    low, high = method["confidence_intervals"]["px_ap"]
    assert 0 < low <= method["summary"]["px_ap"] <= high < 100
    assert "PxAP" in (folder / "table.md").read_text()


def test_second_evaluation_needs_overwrite_and_replaces_the_first(run, tmp_path):
    evaluate(tmp_path, run=run, baselines=(), bootstrap=0)
    with pytest.raises(UsageError, match="already holds an evaluation"):
        evaluate(tmp_path, run=run, baselines=())
    evaluate(tmp_path, run=run, baselines=(), protocols=("tscam",), bootstrap=0, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy_tscam.png",
        "curves.json",
        "iou_tscam.png",
        "records_tscam.jsonl",
        "results.json",
        "table.md",
    ]


def test_interrupted_evaluation_leaves_the_output_as_it_was(run, tmp_path, monkeypatch):
    evaluate(tmp_path, run=run, baselines=(), bootstrap=0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sat_peft.evaluation.baselines.tscam.TsCam.localize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, run=run, baselines=("tscam",), overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


WRONG = {
    "neither run nor adapter": ({"run": None}, "either a run folder with --run or an adapter"),
    "run and adapter": ({"adapter": Path("a")}, "either a run folder with --run or an adapter"),
    "no such run": ({"run": Path("nowhere")}, "'nowhere' is no run folder"),
    "adapter without output": ({"run": None, "adapter": Path("a"), "output": None}, "--output"),
    "no such adapter": ({"run": None, "adapter": Path("a"), "data": "part_scenes"}, "no adapter in 'a'"),
    "unknown protocol": ({"protocols": ("wsoll",)}, "unknown protocol 'wsoll'. Did you mean 'wsol'"),
    "no such data": ({"data": "nowhere"}, "the data folder 'nowhere' does not exist"),
    "other classes": ({"data": "part_scenes"}, "trained on 3 classes that are not the 20 of the data"),
    "another backbone": ({"backbone": "test_vit3", "weights": "random"}, "does not fit"),
    "unknown backbone": ({"backbone": "test_vut"}, "unknown backbone 'test_vut'"),
    "two thresholds": ({"threshold": 0.5, "threshold_source": "oracle"}, "exclude each other"),
    "threshold out of range": ({"threshold": 1.5}, "between 0 and 1"),
    "threshold from the evaluated split": (
        {"split": "validation", "threshold_source": "validation"},
        "that is not the evaluated split",
    ),
    "ten crops of whole images": ({"ten_crop": True, "protocols": ("wsol",)}, "a protocol that crops"),
    "negative bootstrap": ({"bootstrap": -1}, "bootstrap must be 0 or more"),
    "batch of no images": ({"eval_batch_size": 0}, "batch_size must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused_and_nothing_is_written(case, run, tmp_path):
    options, message = WRONG[case]
    if options.get("weights") == "random":
        save_file(timm.create_model("test_vit3").state_dict(), tmp_path / "model.safetensors")
        options = options | {"weights": tmp_path / "model.safetensors"}
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        evaluate(**{"output": tmp_path / "out", "run": run, **options})
    assert not (tmp_path / "out").exists()
    assert not (run / "evaluation").exists()


def test_run_that_did_not_end_has_no_adapter(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    (tmp_path / "status.json").write_text('{"status": "interrupted"}')
    with pytest.raises(UsageError, match=r"has no adapter \(status: interrupted\)"):
        evaluate(tmp_path / "out", run=tmp_path)
    (tmp_path / "config.json").write_text("{")
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    with pytest.raises(UsageError, match=r"config\.json: it is no JSON"):
        evaluate(tmp_path / "out", run=tmp_path)


def test_baseline_without_weights_is_refused_by_name(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "baselines" / "cam.safetensors").unlink()
    with pytest.raises(UsageError, match="no trained weights of the baselines cam here"):
        evaluate(tmp_path / "out", run=copy, baselines=("rollout",))


def test_test_split_without_boxes_is_refused(run, tmp_path):
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    (data / "test" / "metadata.jsonl").unlink()
    with pytest.raises(UsageError, match="has no boxes, so localisation cannot be measured"):
        evaluate(tmp_path / "out", run=run, data=str(data))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--run", "nowhere"], "error: 'nowhere' is no run folder"), (["--protocols", "wsoll"], "wsoll")],
)
def test_user_errors_exit_with_status_2(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "recipes" / "evaluate.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def _evaluate_in_a_process(output: Path, options: dict) -> None:
    join_processes()
    command.main(command.Config(output=output, bootstrap=20, threads=1, **options))


def test_two_processes_find_exactly_what_one_finds(run, tmp_path):
    """Nine images in batches of two: the last batches are padded, and what is padded must not count."""
    options = {"run": run, "eval_batch_size": 2, "baselines": ("cam",), "threshold_source": "unsupervised"}
    evaluate(tmp_path / "one", **options)
    run_processes(_evaluate_in_a_process, tmp_path / "two", options)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
