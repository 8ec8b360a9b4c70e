"""Images of every kind to classes, boxes and maps."""

import itertools
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import CLASSES, THRESHOLD, write_run

from sat_peft import Localizer, load_adapter, localize
from sat_peft.backbones import create_backbone
from sat_peft.errors import UsageError
from sat_peft.tuner.refine import refine_along_edges


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("localizer"))


@pytest.fixture(scope="module")
def localizer(run) -> Localizer:
    return Localizer.from_pretrained(run, device="cpu")


def picture(width: int = 90, height: int = 60, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: a few coloured rectangles."""
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), generator.integers(0, 255, 3), np.uint8)
    for _ in range(4):
        y, x = generator.integers(0, height), generator.integers(0, width)
        image[y : y + height // 2, x : x + width // 2] = generator.integers(0, 255, 3)
    return image


def assert_same(one, other, tolerance: float = 0.0) -> None:
    assert (one.label, one.image_size) == (other.label, other.image_size)
    assert one.score == pytest.approx(other.score, abs=tolerance or 1e-7)
    np.testing.assert_allclose(one.map, other.map, atol=tolerance or 1e-6)
    np.testing.assert_array_equal(one.boxes, other.boxes)


def test_result_is_what_the_model_gives_by_hand(run, localizer):
    image = picture()
    model = load_adapter(
        create_backbone("test_vit", weights=run.parent / "model.safetensors", image_size=64), run / "adapter"
    )
    resized = Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)
    config = localizer.data_config
    inputs = (torch.from_numpy(np.array(resized)) / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    with torch.no_grad():
        output = model(inputs.permute(2, 0, 1)[None].float())
    [found] = localizer(image)
    # PIL and torchvision round the resized pixels each in their own way.
    np.testing.assert_allclose(found.map, output.maps[0].numpy(), atol=2e-2)
    assert found.score == pytest.approx(output.logits.softmax(-1).max().item(), abs=2e-2)
    assert found.label == CLASSES[output.logits.argmax().item()]
    expected = localize(found.map, protocol="original", threshold=THRESHOLD, image_size=(90, 60))
    assert found.box.tolist() == found.boxes[0].tolist() == expected.tolist()
    assert found.map.shape == (4, 4)
    assert found.score_map().shape == (60, 90)
    assert (found.score_map().min(), found.score_map().max()) == (0, 1)


@pytest.mark.parametrize("labels", [None, [2]])
def test_mean_over_the_mirror_image(run, localizer, labels):
    image = picture()
    both = Localizer.from_pretrained(run, device="cpu", tta="flip")
    [found], [turned] = both(image, labels), both(image[:, ::-1], labels)
    np.testing.assert_allclose(found.map, turned.map[:, ::-1], atol=1e-5)
    assert found.score == pytest.approx(turned.score, abs=1e-5)
    views = [localizer(view, [found.label_index])[0].map for view in (image, image[:, ::-1])]
    assert np.abs(views[0] - views[1][:, ::-1]).max() > 1e-3
    np.testing.assert_allclose(found.map, (views[0] + views[1][:, ::-1]) / 2, atol=1e-6)


@pytest.mark.parametrize(("tta", "before"), [("edges", "none"), ("flip-edges", "flip")])
def test_maps_are_refined_along_the_edges_of_the_image(run, tta, before):
    image = picture()
    localizers = [Localizer.from_pretrained(run, device="cpu", tta=each) for each in (tta, before)]
    [refined], [rough] = (localizer(image, [2]) for localizer in localizers)
    inputs = localizers[0].transform(torch.from_numpy(image).permute(2, 0, 1))[None]
    expected = refine_along_edges(torch.from_numpy(rough.map)[None], inputs)[0].numpy()
    assert refined.map.shape == inputs.shape[-2:] != rough.map.shape
    np.testing.assert_allclose(refined.map, expected, atol=1e-6)
    assert refined.score == rough.score
    assert refined.masks().shape == (1, 60, 90)


def test_augmentation_is_that_of_the_run_unless_another_is_asked_for(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tta": "flip"}))
    assert Localizer.from_pretrained(copy, device="cpu").tta == "flip"
    assert Localizer.from_pretrained(copy, device="cpu", tta="none").tta == "none"
    assert Localizer.from_pretrained(run, device="cpu").tta == "none"
    with pytest.raises(UsageError, match=r"'turn'.*none, flip, edges"):
        Localizer.from_pretrained(run, device="cpu", tta="turn")


def test_every_kind_of_image_gives_the_same(localizer, tmp_path):
    image = picture()
    Image.fromarray(image).save(tmp_path / "image.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    kinds = [tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(image), image, tensor]
    first, *others = localizer(kinds)
    assert len(others) == 4
    for other in others:
        assert_same(first, other)
    # A resized float image is not rounded to whole grey levels.
    assert_same(first, localizer(tensor / 255)[0], tolerance=1e-2)


def test_one_image_and_a_batch_in_one_array_are_taken(localizer):
    images = np.stack([picture(seed=seed) for seed in range(3)])
    found = localizer(images)
    assert len(found) == 3
    assert_same(found[1], localizer(images[1])[0])
    assert_same(found[2], localizer(torch.from_numpy(images).permute(0, 3, 1, 2))[2])


def test_batches_do_not_change_the_result(localizer):
    images = [picture(seed=seed, width=50 + 10 * seed) for seed in range(5)]
    for one, other in zip(localizer(images), localizer(images, batch_size=2), strict=True):
        assert_same(one, other, tolerance=1e-5)


def test_known_labels_are_scored(localizer):
    images = [picture(seed=seed) for seed in range(3)]
    found = localizer(images, [2, "ant", np.int64(1)])
    assert [one.label for one in found] == [CLASSES[2], CLASSES[0], CLASSES[1]]
    assert [one.label_index for one in found] == [2, 0, 1]
    total = sum(localizer(images[0], label)[0].score for label in range(3))
    assert total == pytest.approx(1)
    predicted = localizer(images[0])[0]
    assert predicted.score == pytest.approx(max(localizer(images[0], label)[0].score for label in range(3)))
    np.testing.assert_array_equal(found[0].box, predicted.box)


def test_threshold_decides_the_box(localizer):
    image = picture()
    small, large = (localizer(image, threshold=threshold)[0].box for threshold in (0.9, 0.0))
    assert np.prod(large[2:] - large[:2]) > np.prod(small[2:] - small[:2])


def test_multi_keeps_all_components(localizer):
    found = [localizer(picture(seed=seed), threshold=0.6, multi=True, min_area=0)[0] for seed in range(20)]
    assert max(len(one.boxes) for one in found) > 1
    for seed, one in enumerate(found):
        assert one.box.tolist() == one.boxes[0].tolist() == localizer(picture(seed=seed), threshold=0.6)[0].box.tolist()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_in_the_upright_image(localizer, tmp_path, orientation):
    upright = Image.fromarray(picture(width=80, height=40))
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(turned[orientation]) if turned[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    [found] = localizer(tmp_path / "turned.png")
    assert found.image_size == (80, 40)
    assert_same(found, localizer(upright)[0])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (20_000, 4), (1, 300)])
def test_images_of_any_size(localizer, width, height):
    [found] = localizer(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))
    x0, y0, x1, y1 = found.box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


def test_stream_reads_no_more_than_it_needs(localizer):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield picture(seed=number % 3)

    found = list(itertools.islice(localizer.stream(endless(), itertools.repeat("ant"), batch_size=2), 3))
    assert len(found) == 3
    assert len(taken) == 4


def test_threshold_and_classes_come_from_the_run(run, localizer):
    assert (localizer.threshold.value, localizer.threshold.source) == (THRESHOLD, "validation: best")
    assert localizer.class_names == CLASSES
    assert Localizer.from_pretrained(run, threshold=0.2).threshold.value == 0.2


def test_adapter_alone_has_the_threshold_of_the_protocol(run):
    alone = Localizer.from_pretrained(run / "adapter", weights=run.parent / "model.safetensors", device="cpu")
    assert (alone.threshold.value, alone.threshold.source) == (0.2, "fixed: default of protocol original")


@pytest.mark.parametrize("changes", [{"protocol": "sat"}, None])
def test_threshold_of_another_protocol_is_not_taken(tmp_path, changes):
    run = write_run(tmp_path)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").unlink()
    if changes:
        (run / "results.json").write_text(json.dumps(results | changes))
    assert Localizer.from_pretrained(run).threshold.source == "fixed: default of protocol original"


def test_adapter_without_class_names_numbers_them_and_says_so(tmp_path):
    run = write_run(tmp_path, class_names=None)
    with pytest.warns(UserWarning, match="records no class names: its 3 classes are called 'class 0'"):
        nameless = Localizer.from_pretrained(run)
    assert nameless(picture(), 2)[0].label == nameless(picture(), "class 2")[0].label == "class 2"


def test_preprocessing_is_the_one_that_the_adapter_records(tmp_path):
    run = write_run(tmp_path)
    file = run / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["backbone"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.7, 0.8, 0.9]}
    file.write_text(json.dumps(config))
    data = Localizer.from_pretrained(run).data_config
    assert (data.mean, data.std, data.image_size) == ((0.1, 0.2, 0.3), (0.7, 0.8, 0.9), (64, 64))


def broken(folder: Path) -> Path:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder / "broken.jpg"


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ("gone.jpg", {}, r"'gone\.jpg' cannot be read"),
        (np.zeros((4, 4), np.uint8), {}, r"array \(4, 4\) of uint8; give \(height, width, 3\)"),
        (np.zeros((4, 4, 3)), {}, "of float64"),
        (torch.zeros(4, 4, 3), {}, r"tensor \(4, 4, 3\)"),
        (torch.full((3, 4, 4), 2.0), {}, "with values from 2 to 2"),
        (torch.full((3, 4, 4), torch.nan), {}, "with values from nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), {}, "uint8, or floats"),
        (Image.new("F", (4, 4)), {}, "image 0 cannot be read: pixels of mode 'F'"),
        ([3], {}, "image 0 is a int"),
        (picture(), {"labels": ["bea"]}, r"unknown class 'bea'.*Valid choices: ant, bee"),
        (picture(), {"labels": 3}, "label 3 is no class of the model, which has 0 to 2"),
        ([picture()] * 2, {"labels": [0]}, "image 1 has none"),
        ([picture()], {"labels": [0, 1]}, "more labels than images"),
        (picture(), {"threshold": 1.5}, "between 0 and 1"),
        (picture(), {"min_area": -1}, "min_area must be"),
        (picture(), {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_mistakes_are_named(localizer, images, options, words):
    with pytest.raises(UsageError, match=words):
        localizer(images, **options)


def test_damaged_file_is_named(localizer, tmp_path):
    with pytest.raises(UsageError, match=r"broken\.jpg' cannot be read"):
        localizer([picture(), broken(tmp_path)])


def test_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no adapter in .*adapter_config\.json is missing"):
        Localizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_backbone_of_another_precision(run, localizer, dtype):
    backbone = create_backbone("test_vit", weights=run.parent / "model.safetensors", image_size=64).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fingerprint of rounded weights
        model = load_adapter(backbone, run / "adapter")
    other = Localizer(model, threshold=THRESHOLD, device="cpu")
    [found], [expected] = other(picture()), localizer(picture())
    assert found.map.dtype == np.float32
    np.testing.assert_allclose(found.map, expected.map, atol=0.05)
