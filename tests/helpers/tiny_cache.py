"""A small model, images and source of a feature cache."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from sat_peft import SatConfig
from sat_peft.backbones import DataConfig
from sat_peft.data.feature_cache import FeatureSource
from sat_peft.data.features import localization_features
from sat_peft.data.loaders import ImageRows
from sat_peft.data.transforms import training_steps

CONFIG = DataConfig((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
COUNT = 6
# Of one view: 17 tokens of 16 float16 numbers.
VIEW_BYTES = 17 * 16 * 2


def create_model(seed: int = 0):
    torch.manual_seed(seed)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=0)
    config = SatConfig(num_classes=2, num_spatial_blocks=1, tune="none", token_entry="late")
    return get_peft_model(vit, config).eval()


def write_images(folder: Path) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(COUNT)]
    for path in paths:
        if not path.exists():
            Image.fromarray(generator.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(path, compress_level=0)
    return Dataset.from_dict(
        {
            "image_id": [path.name for path in paths],
            "image": [{"bytes": None, "path": str(path)} for path in paths],
            "label": [number % 2 for number in range(COUNT)],
            "boxes": [[] for _ in paths],
        },
        features=localization_features(["a", "b"]),
    )


def create_source(dataset, model, *, views=3, augmentation="shift", dtype="float16", **changes) -> FeatureSource:
    resize, augment = training_steps(CONFIG, augmentation)
    arguments = {
        "views": views,
        "compute": lambda images: model.base_model.frozen_tokens(images).tokens,
        "identity": {"backbone": model.base_model.frozen_fingerprint()},
        "image_shape": (3, 32, 32),
        "dtype": dtype,
        "batch_size": 4,
    }
    return FeatureSource(ImageRows(dataset, augment, resize=resize), **(arguments | changes))


class Counting:
    """A function of tokens that knows how many images it has seen."""

    def __init__(self, model):
        self.model, self.images = model, 0

    def __call__(self, images):
        self.images += len(images)
        return self.model.base_model.frozen_tokens(images).tokens
