"""What tests of recipes share: a small folder of images, a small backbone, and recipes as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tiny_folder import write_folder
from tiny_run import write_weights

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict:
    """Options of a run on a small folder with a small backbone of random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    weights = write_weights(folder)
    data = write_folder(folder / "data")
    model = {"backbone": "test_vit", "weights": weights, "image_size": 64, "num_spatial_blocks": 6}
    # The preset fills in on a command line alone; where a recipe is called, the loss is what is said here.
    loss = {"preset": "part_scenes", "area_target": 0.15, "area_weight": 1.0, "normalization_weight": 3.0}
    loss |= {"classification_weight": 1.0, "separation_weight": 0.0, "border_weight": 0.0}
    method = {"token_entry": "isolated", "calibrated_masks": False, "border_in_each_image": False}
    return {"data": str(data), **model, **loss, **method}


@pytest.fixture(scope="session")
def load_recipe():
    """Loads a recipe as a module, by name. Running it in this process sets the number of threads, which is put back."""
    threads, loaded = torch.get_num_threads(), []

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    torch.set_num_threads(threads)
    for name in loaded:
        sys.modules.pop(name, None)
