"""Test-time augmentation: what several views of an image make of it."""

import pytest
import torch

from sat_peft.evaluation.views import see_views


def see_brightness(images):
    """Cells of four pixels; a map is the cell's brightness times the class, logits the image's brightness."""
    cells = torch.nn.functional.avg_pool2d(images[:, 0], 4)
    logits = torch.stack([cells.mean((1, 2)), 1 - cells.mean((1, 2))], 1)
    return logits, lambda labels: (cells * (1 + labels)[:, None, None], torch.stack([cells, 2 * cells]))


def test_corners_lie_on_their_place_in_the_image():
    """A ramp stays the same ramp, on more cells, whatever corner a cell was seen in."""
    ramp = torch.linspace(0, 1, 28).expand(2, 3, 40, 28)
    logits, (maps, block_maps) = see_views(see_brightness, ramp, torch.tensor([0, 1]), "crops")
    assert torch.equal(logits, see_brightness(ramp)[0])
    assert (maps.shape, block_maps.shape) == ((2, 14, 10), (2, 2, 14, 10))
    expected = (torch.arange(10) + 0.5) / 10
    expected = ((expected * 28 - 0.5) / 27).expand(14, 10)
    torch.testing.assert_close(maps[0], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(maps[1], 2 * expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(block_maps[1, 0], 2 * expected, atol=4e-3, rtol=0)


@pytest.mark.parametrize("tta", ["none", "flip", "crops"])
def test_maps_are_those_of_the_predicted_class_unless_another_is_given(tta):
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    predicted = see_views(see_brightness, images, None, tta)
    assert predicted[0].argmax(1).tolist() == [1, 0]
    given = see_views(see_brightness, images, torch.tensor([1, 0]), tta)
    torch.testing.assert_close(predicted, given)
    torch.testing.assert_close(given[1][0][1], torch.ones_like(given[1][0][1]))
