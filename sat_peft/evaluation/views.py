"""Test-time augmentation: several views of the same images, and one answer of them.

`flip` takes the mean over each image and its mirror image. `crops` takes the classes of the whole image, and as maps
the mean over its four corners, which overlap and are enlarged to the size of the input: a map then has 10/7 of the
model's cells along each side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

# Images (B, 3, H, W) to logits (B, C), and what reads maps (…, B, h, w) of classes (B,) off the same pass.
See = Callable[[torch.Tensor], tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, ...]]]]

# Of the side of an image to that of its corners, before it is rounded to whole cells of the map. Chosen on photographs.
_ZOOM = 10 / 7


def see_views(
    see: See, images: torch.Tensor, labels: torch.Tensor | None, tta: str
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Logits (B, C) and maps (…, B, h, w) of images under a test-time augmentation.

    Args:
        see: looks at one view.
        images: (B, 3, H, W).
        labels: (B,) classes whose maps are wanted; by default the most probable ones.
        tta: `none`, `flip` or `crops`.
    """
    logits, read = see(images)
    if tta == "flip":
        mirrored, read_mirrored = see(images.flip(-1))
        logits = (logits + mirrored) / 2
    labels = logits.argmax(-1) if labels is None else labels
    maps = read(labels)
    if tta == "flip":
        turned = read_mirrored(labels)
        maps = tuple((seen + other.flip(-1)) / 2 for seen, other in zip(maps, turned, strict=True))
    elif tta == "crops":
        maps = _corner_maps(see, images, labels, maps)
    return logits, maps


def _corner_maps(
    see: See, images: torch.Tensor, labels: torch.Tensor, whole: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    cells, pixels = whole[0].shape[-2:], images.shape[-2:]
    zoomed = [round(count * _ZOOM) for count in cells]
    # A side is a whole number of patches, and then so is every corner, whose cells lie on those of its neighbours.
    sides = [side * large // count for side, large, count in zip(pixels, zoomed, cells, strict=True)]
    enlarged = F.interpolate(images, size=sides, mode="bicubic", align_corners=False)
    sums = [maps.new_zeros((*maps.shape[:-2], *zoomed)) for maps in whole]
    times = whole[0].new_zeros(zoomed)
    for bottom in (False, True):
        for right in (False, True):
            view, place = enlarged, [...]
            for axis, at_end in ((-2, bottom), (-1, right)):
                view = view.narrow(axis, sides[axis] - pixels[axis] if at_end else 0, pixels[axis])
                start = zoomed[axis] - cells[axis] if at_end else 0
                place.append(slice(start, start + cells[axis]))
            for total, maps in zip(sums, see(view)[1](labels), strict=True):
                total[tuple(place)] += maps
            times[tuple(place)] += 1
    return tuple(total / times for total in sums)
