"""Maps along the edges of their image: against the filter as it is defined, and what it is for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sat_peft.tuner.refine import _SMOOTHNESS, refine_along_edges


def defined(rough: np.ndarray, guide: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """The guided filter of He et al., pixel by pixel, of a map (H, W) and an image (H, W, 3)."""
    height, width = rough.shape

    def square(row: int, column: int):
        return (
            slice(max(0, row - radius[0]), row + radius[0] + 1),
            slice(max(0, column - radius[1]), column + radius[1] + 1),
        )

    slopes, offsets = np.zeros((height, width, 3)), np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        colours, values = guide[square(row, column)].reshape(-1, 3), rough[square(row, column)].reshape(-1)
        centred = colours - colours.mean(0)
        products = centred.T @ centred / len(colours) + _SMOOTHNESS * np.eye(3)
        slopes[row, column] = np.linalg.solve(products, centred.T @ (values - values.mean()) / len(colours))
        offsets[row, column] = values.mean() - slopes[row, column] @ colours.mean(0)
    refined = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        near = square(row, column)
        refined[row, column] = slopes[near].reshape(-1, 3).mean(0) @ guide[row, column] + offsets[near].mean()
    return refined


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """An image (1, 3, 32, 48) with a disc of another colour, and a map (1, 4, 6) of the patches that it is in."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    disc = ((rows - 15) ** 2 + (columns - 22) ** 2 < 11**2).float()
    colours = torch.tensor([1.0, -0.5, 0.3])[:, None, None] * (2 * disc - 1)
    image = colours + 0.1 * torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))
    return image[None], F.avg_pool2d(disc[None, None], 8)[0]


def test_is_the_guided_filter():
    image, rough = scene()
    refined = refine_along_edges(rough, image)
    large = F.interpolate(rough[:, None], size=(32, 48), mode="bicubic", align_corners=False)[0, 0]
    expected = defined(large.double().numpy(), image[0].permute(1, 2, 0).double().numpy(), (4, 4))
    assert refined.shape == (1, 32, 48)
    np.testing.assert_allclose(refined[0], expected.clip(rough.min(), rough.max()), atol=2e-4)


def test_borders_of_the_map_become_those_of_the_image():
    image, rough = scene()
    disc = image[0, 0] > 0
    large = F.interpolate(rough[:, None], size=(32, 48), mode="bicubic", align_corners=False)[0, 0]

    def overlap(found: torch.Tensor) -> float:
        return ((found > 0.5) & disc).sum() / ((found > 0.5) | disc).sum()

    assert overlap(refine_along_edges(rough, image)[0]) > 0.98 > 0.9 > overlap(large)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_keeps_the_range_of_a_map_and_takes_every_precision(dtype):
    image, rough = scene()
    maps = torch.cat([rough, 40 * rough - 7, torch.full_like(rough, 0.25)])
    refined = refine_along_edges(maps.to(dtype), image.repeat(3, 1, 1, 1).to(dtype))
    assert refined.dtype == torch.float32
    for one, before in zip(refined, maps.to(dtype).float(), strict=True):
        assert before.min() <= one.min() <= one.max() <= before.max()
    assert refined[2].unique().tolist() == [0.25]


def test_images_of_a_batch_do_not_touch_each_other():
    image, rough = scene()
    both = refine_along_edges(torch.cat([rough, rough.flip(-1)]), torch.cat([image, image.flip(-1)]))
    torch.testing.assert_close(both[:1], refine_along_edges(rough, image))
    torch.testing.assert_close(both[1].flip(-1), both[0], atol=1e-5, rtol=0)


def test_large_batches_are_refined_in_their_order():
    draw = torch.Generator().manual_seed(0)
    images, maps = torch.randn(19, 3, 28, 28, generator=draw), torch.rand(19, 4, 4, generator=draw)
    one_by_one = [refine_along_edges(maps[i : i + 1], images[i : i + 1]) for i in range(19)]
    torch.testing.assert_close(refine_along_edges(maps, images), torch.cat(one_by_one))
    assert refine_along_edges(maps[:0], images[:0]).shape == (0, 28, 28)
