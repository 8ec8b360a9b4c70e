"""Frozen tokens kept in memory: images that come again pass through the last blocks alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sat_peft.tuner.backbone import frozen_fingerprint
from sat_peft.tuner.frozen import FrozenTokens, tokens_after


class _KeptTokens:
    """Frozen tokens by what they follow from: the frozen part of a backbone, the pixels of an image, the precision.

    Args:
        limit: bytes of all of them; what comes when it is reached is not kept.
    """

    def __init__(self, limit: int):
        self._left = limit
        self._tokens: dict[bytes, torch.Tensor] = {}  # each (N, D), on the CPU
        self._backbones: WeakKeyDictionary[nn.Module, dict[int, str]] = WeakKeyDictionary()

    def tokens_after(self, vit: nn.Module, images: torch.Tensor, blocks: int) -> torch.Tensor:
        """As the function of this name, which gets those of the images alone that are not kept."""
        keys = self._keys(vit, images, blocks)
        new = [row for row, key in enumerate(keys) if key not in self._tokens]
        found: dict[int, torch.Tensor] = {}
        if new:
            computed = tokens_after(vit, images if len(new) == len(keys) else images[new], blocks)
            if len(new) == len(keys):
                self._keep(keys, computed)
                return computed
            self._keep([keys[row] for row in new], computed)
            found = dict(zip(new, computed, strict=True))
        rows = [found[row] if row in found else self._tokens[key].to(images.device) for row, key in enumerate(keys)]
        return torch.stack(rows)

    def _keys(self, vit: nn.Module, images: torch.Tensor, blocks: int) -> list[bytes]:
        known = self._backbones.setdefault(vit, {})
        if blocks not in known:
            known[blocks] = frozen_fingerprint(vit, blocks)
        device = images.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        start = hashlib.sha256(f"{known[blocks]} {autocast} {images.dtype} {tuple(images.shape[1:])}".encode())
        keys = []
        for image in images.detach().cpu():
            digest = start.copy()
            digest.update(image.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            keys.append(digest.digest())
        return keys

    def _keep(self, keys: list[bytes], tokens: torch.Tensor) -> None:
        if tokens.nbytes <= self._left:
            self._left -= tokens.nbytes
            self._tokens |= zip(keys, tokens.cpu(), strict=True)


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
