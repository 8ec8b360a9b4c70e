"""What reaches the backbone: sizes, normalisation, and that augmentation does what its name says."""

import pytest
import torch

from sat_peft.backbones import DataConfig
from sat_peft.data.transforms import (
    AUGMENTATIONS,
    evaluation_steps,
    evaluation_transform,
    training_steps,
    training_transform,
)
from sat_peft.errors import UsageError

GREY = DataConfig((48, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")


def config(size: int) -> DataConfig:
    return DataConfig((size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_training_images_have_the_input_size_and_normalisation(augmentation):
    white = torch.full((3, 70, 50), 255, dtype=torch.uint8)
    for image, value in ((white, 2.0), (white - 255, -2.0)):
        result = training_transform(GREY, augmentation)(image)
        assert result.shape == (3, 48, 32)
        torch.testing.assert_close(result, torch.full_like(result, value))


def test_no_augmentation_is_the_evaluation_transform_of_original():
    image = picture(60, 40)
    assert torch.equal(training_transform(GREY, "none")(image), evaluation_transform(GREY, "original")(image))


@pytest.mark.parametrize("augmentation", ["shift", "crop"])
def test_augmentation_varies_and_repeats_with_the_seed(augmentation):
    transform, image = training_transform(config(32), augmentation), picture(40, 40)

    def views(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([transform(image) for _ in range(8)])

    assert torch.equal(views(0), views(0))
    assert not torch.equal(views(0), views(1))
    assert any(not torch.equal(view, views(0)[0]) for view in views(0))


def test_shift_moves_the_picture_by_at_most_a_twelfth_of_the_side():
    transform = training_transform(config(48), "shift")
    dot = torch.zeros(3, 48, 48, dtype=torch.uint8)
    dot[:, 20, 20] = 255
    torch.manual_seed(0)
    places = {tuple(transform(dot)[0].argmax().item() // size % 48 for size in (48, 1)) for _ in range(200)}
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    assert rows == set(range(16, 25))  # 20 - 4 to 20 + 4
    assert columns == set(range(16, 25)) | set(range(23, 32))  # and flipped: 27 - 4 to 27 + 4


@pytest.mark.parametrize(
    ("protocol", "input_size"), [("sat", 224), ("wsol", 224), ("tscam", 224), ("original", 64), ("original", 224)]
)
def test_evaluation_images_have_the_size_that_the_protocol_scores(protocol, input_size):
    assert evaluation_transform(config(input_size), protocol)(picture(300, 200)).shape == (3, input_size, input_size)


def test_sat_evaluates_the_centre_224_of_256():
    # Columns brighten from left to right, so that a column tells where it comes from.
    image = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256)
    result = evaluation_transform(config(224), "sat")(image)
    assert round(result[0, 0, 0].item() * 255) == 16
    assert round(result[0, 0, -1].item() * 255) == 16 + 223


def test_wsol_squashes_the_whole_image():
    image = torch.zeros(3, 100, 448, dtype=torch.uint8)
    image[:, :, -8:] = 255  # four columns of the result, the first of them blurred
    result = evaluation_transform(config(224), "wsol")(image)
    assert (result[:, :, -3:] == 1).all()
    assert (result[:, :, :-6] == 0).all()


def test_timm_random_interpolation_is_evaluated_as_bicubic():
    image = picture(40, 40)
    random, bicubic = (DataConfig((32, 32), (0, 0, 0), (1, 1, 1), mode) for mode in ("random", "bicubic"))
    assert torch.equal(
        evaluation_transform(random, "original")(image), evaluation_transform(bicubic, "original")(image)
    )


def test_protocol_of_another_size_than_the_backbones_is_refused():
    with pytest.raises(UsageError, match=r"'sat' evaluates images of 224 x 224 pixels.*takes 96 x 96.*'original'"):
        evaluation_transform(config(96), "sat")


@pytest.mark.parametrize(("protocol", "data_config"), [("original", GREY), ("sat", config(224))])
def test_steps_of_the_evaluation_hand_over_uint8_and_make_the_same_batch(protocol, data_config):
    pixels_of, normalise = evaluation_steps(data_config, protocol)
    images = [picture(60, 40), picture(48, 32), picture(30, 300)]
    pixels = torch.stack([pixels_of(image) for image in images])
    assert pixels.dtype == torch.uint8
    transform = evaluation_transform(data_config, protocol)
    assert torch.equal(normalise(pixels), torch.stack([transform(image) for image in images]))


def test_unknown_augmentation_is_named_with_the_choices():
    with pytest.raises(UsageError, match=r"'shfit'.*'shift'.*shift, crop, none"):
        training_transform(GREY, "shfit")


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_steps_make_the_transform_and_the_first_draws_nothing(augmentation):
    image = picture(60, 40)
    resize, rest = training_steps(config(32), augmentation)
    state = torch.get_rng_state()
    resized = resize(image)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    parts = rest(resized)
    torch.manual_seed(3)
    assert torch.equal(training_transform(config(32), augmentation)(image), parts)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2)])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_tiny_images_are_enlarged(size, augmentation):
    result = training_transform(config(48), augmentation)(torch.full((3, *size), 255, dtype=torch.uint8))
    torch.testing.assert_close(result, torch.ones(3, 48, 48))
