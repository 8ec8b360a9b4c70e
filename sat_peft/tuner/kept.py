"""Frozen tokens kept in memory: images that come again pass through the last blocks alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sat_peft.tuner.backbone import frozen_fingerprint
from sat_peft.tuner.frozen import FrozenTokens, tokens_after


class KeptByImage:
    """What was computed of images, in memory: found again by the pixels of an image, its precision and a name.

    Args:
        limit: bytes of everything; what comes when it is reached is not kept.
    """

    def __init__(self, limit: int):
        self._left = limit
        self._found: dict[bytes, tuple[torch.Tensor, ...]] = {}  # of one image each, on the CPU

    def get(
        self, name: str, images: torch.Tensor, compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    ) -> tuple[torch.Tensor, ...]:
        """What `compute` makes of images (B, 3, H, W), each (B, …); it gets those alone that are not kept.

        Args:
            name: tells apart what is computed; the same for the same.
            images: preprocessed, on the device of the results.
            compute: whose results for an image do not depend on the others.
        """
        keys = self._keys(name, images)
        new = [row for row, key in enumerate(keys) if key not in self._found]
        if len(new) == len(keys):
            computed = compute(images)
            self._keep(keys, computed)
            return computed
        rows = [self._found.get(key) for key in keys]
        if new:
            computed = compute(images[new])
            self._keep([keys[row] for row in new], computed)
            for row, *values in zip(new, *computed, strict=True):
                rows[row] = tuple(values)
        return tuple(torch.stack([value.to(images.device) for value in values]) for values in zip(*rows, strict=True))

    def _keys(self, name: str, images: torch.Tensor) -> list[bytes]:
        device = images.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        start = hashlib.sha256(f"{name} {autocast} {images.dtype} {tuple(images.shape[1:])}".encode())
        keys = []
        for image in images.detach().cpu():
            digest = start.copy()
            digest.update(image.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            keys.append(digest.digest())
        return keys

    def _keep(self, keys: list[bytes], computed: tuple[torch.Tensor, ...]) -> None:
        size = sum(values.nbytes for values in computed)
        if size <= self._left:
            self._left -= size
            self._found |= zip(keys, zip(*(values.cpu() for values in computed), strict=True), strict=True)


class _KeptTokens:
    """Frozen tokens of images, by the frozen part of the backbone that they are of."""

    def __init__(self, limit: int):
        self._tokens = KeptByImage(limit)
        self._backbones: WeakKeyDictionary[nn.Module, dict[int, str]] = WeakKeyDictionary()

    def tokens_after(self, vit: nn.Module, images: torch.Tensor, blocks: int) -> torch.Tensor:
        """As the function of this name, which gets those of the images alone that are not kept."""
        known = self._backbones.setdefault(vit, {})
        if blocks not in known:
            known[blocks] = frozen_fingerprint(vit, blocks)
        (tokens,) = self._tokens.get(known[blocks], images, lambda new: (tokens_after(vit, new, blocks),))
        return tokens


# No context variable, which torch.compile would have to trace.
_kept: _KeptTokens | None = None


@contextmanager
def keep_frozen_tokens(limit: int = 2**30) -> Iterator[None]:
    """Within it, images that come again pass through the last blocks alone, in evaluation mode and without gradients.

    For several passes over the same images: to fit a readout, choose a threshold, evaluate and predict. It takes an
    active adapter of `token_entry="late"` that leaves blocks frozen; all others compute as always. A second model on
    the same backbone finds the tokens of the first. Weights of frozen blocks must not be changed within it.

    Args:
        limit: bytes of memory for tokens; those of a ViT-S at 224 x 224 pixels take 0.4 MB an image. Images that come
            when it is reached are computed each time.
    """
    global _kept
    before, _kept = _kept, _KeptTokens(limit)
    try:
        yield
    finally:
        _kept = before


def kept_tokens_after(vit: nn.Module, images: torch.Tensor, blocks: int) -> torch.Tensor:
    """As `tokens_after`; within `keep_frozen_tokens`, those of every image are computed once."""
    return tokens_after(vit, images, blocks) if _kept is None else _kept.tokens_after(vit, images, blocks)


def take_kept_tokens(vit: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the backbone: within `keep_frozen_tokens`, gives it frozen tokens in place of images."""
    blocks = vit.norm_pre.num_frozen_blocks
    if _kept is None or not blocks or vit.training or torch.is_grad_enabled():
        return None
    images = args[0] if args else kwargs.get("x")
    if not isinstance(images, torch.Tensor) or images.dim() != 4:  # frozen tokens, or what is refused
        return None
    frozen = FrozenTokens(kept_tokens_after(vit, images, blocks), tuple(images.shape[1:]))
    return ((frozen, *args[1:]), kwargs) if args else ((), kwargs | {"x": frozen})
