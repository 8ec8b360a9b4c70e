"""The model card, read as the hub reads it, and its way there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from fake_hub import fake_hub
from huggingface_hub import ModelCard
from packaging.version import Version
from tiny_run import write_run

from sat_peft.errors import UsageError
from sat_peft.report.model_card import write_model_card

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path)


def test_metadata_are_those_of_the_hub(run):
    path = write_model_card(run)
    assert path == run / "adapter" / "README.md"
    card = ModelCard.load(path)
    assert card.data.base_model == "timm/test_vit.r160_in1k"
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "object-detection"
    assert "weakly-supervised-object-localization" in card.data.tags
    assert card.data.license is None
    results = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "GT-known Loc": 81.25,
        "Top-1 Loc": 62.5,
        "Top-1 Cls": 75.0,
    }
    for result in results.values():
        assert (result.dataset_name, result.dataset_split) == ("photos", "test")
        assert result.metric_args == {"protocol": "original", "threshold": 0.45, "threshold_source": "validation: best"}


def test_text_tells_training_results_and_limits(run):
    text = write_model_card(run).read_text(encoding="utf-8")
    for words in (
        "data: photos, 6 images with labels and without boxes",
        "shots: 2",
        "| GT-known Loc | 81.2 |",
        "16 images, percent, protocol `original`",
        'from_pretrained("path/to/this/folder", threshold=0.45)',
        "## Limits",
        "licence is not stated",
        "images of 64 x 64 pixels",
    ):
        assert words in text
    # Where the data lay is nobody's business.
    assert "/home/me" not in text


def test_what_localises_best_is_told(run):
    assert "localises best" not in write_model_card(run).read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"standing": "SAT localises best here."}))
    assert "\n\nSAT localises best here.\n\n" in write_model_card(run).read_text(encoding="utf-8")


def test_class_names_are_shown_as_text(run):
    text = write_model_card(run).read_text(encoding="utf-8")
    assert "3 classes: `ant`, `bee & wasp`, `<script>`" in text
    assert text.count("<script>") == text.count("`<script>`") == 1


def test_adapter_alone_tells_what_it_records(run):
    card = ModelCard.load(write_model_card(run / "adapter"))
    assert card.data.eval_results is None
    assert card.data.base_model == "timm/test_vit.r160_in1k"
    assert "Nothing was measured" in card.text
    assert "## Training" not in card.text


def test_scenes_whose_figures_do_not_compare_with_those_of_others_are_told_apart(run):
    config = json.loads((run / "config.json").read_text()) | {"data": "part_scenes", "difficulty": "cluttered"}
    for seed, title in ((None, "part_scenes, cluttered"), (1, "part_scenes, cluttered, seed 1")):
        (run / "config.json").write_text(json.dumps(config | {"scene_seed": seed}))
        card = ModelCard.load(write_model_card(run))
        assert f"data: {title}," in card.text
        assert f"Test split of {title}, 16 images" in card.text
        (first, *_) = card.data.eval_results
        assert (first.dataset_type, first.dataset_name) == ("part_scenes", title)


def test_run_without_measured_localisation_and_backbone_that_is_not_on_the_hub(run):
    results = json.loads((run / "results.json").read_text())
    results["methods"]["sat"] |= {"gt_known": None, "top1_loc": None}
    (run / "results.json").write_text(json.dumps(results))
    file = run / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["backbone"] |= {"name": "sat_peft_vit_nano_patch8_96", "pretrained_tag": None}
    file.write_text(json.dumps(config))
    path = write_model_card(run)
    metadata = yaml.safe_load(path.read_text().split("---")[1])
    assert "base_model" not in metadata
    assert [metric["name"] for metric in metadata["model-index"][0]["results"][0]["metrics"]] == ["Top-1 Cls"]


def test_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"adapter_config\.json is missing"):
        write_model_card(tmp_path)


PUSH = """
import sys
from sat_peft import load_adapter
from sat_peft.backbones import create_backbone

weights, adapter = sys.argv[1:]
load_adapter(create_backbone("test_vit", weights=weights, image_size=64), adapter).push_to_hub("me/ants")
"""


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("1"), reason="this client has cards checked by the real hub alone"
)
def test_adapter_and_card_arrive_on_the_hub_and_the_card_stays(run, tmp_path):
    card = write_model_card(run).read_bytes()
    with fake_hub() as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_a_test"}
        settings |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
        adapter = str(run / "adapter")
        for command in (
            [Path(sys.executable).with_name("hf"), "upload", "me/ants", adapter, "--private"],
            [sys.executable, "-c", PUSH, str(tmp_path / "model.safetensors"), adapter],
        ):
            done = subprocess.run(
                command, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr
    # The client also asks for things of its own, which are not about the repository.
    assert [request for request in hub.unknown if "me/ants" in request] == []
    assert hub.created[0]["name"] == "ants"
    assert hub.created[0]["visibility"] == "private"
    # The folder, and once more what PEFT sends, which starts from the hub's card.
    assert [set(commit) for commit in hub.commits] == [
        {"adapter_config.json", "adapter_model.safetensors", "README.md"},
        {"adapter_config.json", "adapter_model.safetensors", "README.md"},
    ]
    sent, last = (ModelCard(commit["README.md"].decode()) for commit in hub.commits)
    written = ModelCard(card.decode())
    for arrived in (sent, last):
        assert arrived.data.to_dict() == written.data.to_dict()
        assert arrived.text.strip() == written.text.strip()
    assert hub.files["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert json.loads(hub.files["adapter_config.json"])["class_names"][2] == "<script>"
