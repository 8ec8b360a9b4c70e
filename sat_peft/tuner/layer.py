"""The adapter layers of SAT.

Three of them wrap a layer of the backbone, as PEFT's layers do: where the spatial token is made, where it leaves, and
every layer that trains as a copy. Two are inserted below a block or an attention module: copies of parameters that
belong to no layer, and the scale and shift of mask logits.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.forward import ForwardRecord
from sat_peft.tuner.heads import HEAD_CLASSES
from sat_peft.tuner.readout import ClassReadout

if TYPE_CHECKING:
    from typing import Self

NO_MERGE = (
    "SAT adds a token to the sequence and returns maps, which the base model cannot hold, so it cannot be merged. "
    "Use unload() for the base model, or save_adapter() to keep the adapter."
)


class SatLayer(BaseTunerLayer):
    """What the adapter layers of SAT share: one active adapter at a time, and no merging."""

    cast_input_dtype_enabled = True  # PEFT's `disable_input_dtype_casting` sets it; SAT casts where it computes

    def _init_state(self, adapter_name: str) -> None:
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.merged_adapters = []

    @property
    def current_adapter(self) -> str | None:
        """Name of the adapter that acts in this layer; `None` if adapters are disabled or it has no part here."""
        if self.disable_adapters or not self.active_adapters:
            return None
        name = self.active_adapters[0]
        return name if name in getattr(self, self.adapter_layer_names[0]) else None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise UsageError(NO_MERGE)

    def unmerge(self) -> None:
        """Nothing to undo, since nothing is ever merged."""


class TokenApart(NamedTuple):
    """What travels between blocks while the spatial token is no part of the sequence yet."""

    sequence: torch.Tensor  # (B, N, D)
    token: torch.Tensor  # (B, 1, D)
    after_frozen_blocks: bool = False  # the sequence has passed them before

    def join(self, token_index: int) -> torch.Tensor:
        """(B, N + 1, D): the sequence with the token at place `token_index`.

        That is *after* the prefix tokens (class, distillation, registers), so that they keep their places and rotary
        position embeddings, which skip the first tokens, still meet the right patches.
        """
        head, tail = self.sequence[:, :token_index], self.sequence[:, token_index:]
        return torch.cat((head, self.token.to(head.dtype), tail), dim=1)


class SpatialTokenEntry(nn.Module, SatLayer):
    """Makes the spatial token with its position embedding and applies the wrapped layer, to it as well.

    The token joins the sequence here, or is handed on beside it, for a block to let it join (`joins_later`).
    """

    adapter_layer_names = ("sat_token", "sat_pos_embed")

    def __init__(self, base_layer: nn.Module, adapter_name: str, token_index: int, record: ForwardRecord):
        super().__init__()
        self.base_layer = base_layer
        self.token_index = token_index
        self.joins_later = False
        self.num_frozen_blocks = 0  # whose tokens the active adapter takes in place of images
        self.sat_record = record
        self.sat_token = nn.ParameterDict()
        self.sat_pos_embed = nn.ParameterDict()
        self._init_state(adapter_name)

    def update_layer(
        self,
        adapter_name: str,
        dim: int,
        device,
        dtype,
        inference_mode: bool,
        initial_token: torch.Tensor | None = None,
    ) -> None:
        """Adds the token and position embedding (1, 1, dim) of an adapter; the token may start as a given value."""
        for parameters in (self.sat_token, self.sat_pos_embed):
            value = torch.empty(1, 1, dim, device=device, dtype=dtype)
            parameters[adapter_name] = nn.Parameter(nn.init.trunc_normal_(value, std=0.02))
        if initial_token is not None:
            with torch.no_grad():
                self.sat_token[adapter_name].copy_(initial_token)
                self.sat_pos_embed[adapter_name].zero_()
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor | TokenApart:
        """(B, N, D) tokens to (B, N + 1, D), or both apart; without the token while no adapter is active."""
        name = self.current_adapter
        if name is None or self.sat_record.without_token:
            return self.base_layer(x)
        frozen = self.sat_record.frozen_tokens
        batch = (x if frozen is None else frozen).shape[0]
        token = (self.sat_token[name] + self.sat_pos_embed[name]).to(x.dtype).expand(batch, -1, -1)
        if frozen is not None:
            return TokenApart(frozen.to(x.dtype), self.base_layer(token), after_frozen_blocks=True)
        if self.joins_later:
            return TokenApart(self.base_layer(x), self.base_layer(token))
        return self.base_layer(TokenApart(x, token).join(self.token_index))


class SpatialTokenExit(nn.Module, SatLayer):
    """Applies the wrapped layer, takes the spatial token out again and holds classification heads and readouts."""

    adapter_layer_names = ("sat_head", "sat_readout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, token_index: int, record: ForwardRecord):
        super().__init__()
        self.base_layer = base_layer
        self.token_index = token_index
        self.sat_record = record
        self.sat_head = nn.ModuleDict()
        self.sat_readout = nn.ModuleDict()
        self._untrained: set[str] = set()  # adapters whose head stays as it is
        self._init_state(adapter_name)

    def update_layer(
        self,
        adapter_name: str,
        dim: int,
        num_classes: int,
        head: str,
        train_head: bool,
        readout: ClassReadout | None,
        device,
        dtype,
        inference_mode: bool,
    ) -> None:
        """Adds the head of an adapter, and the readout of one that is fitted."""
        self.sat_head[adapter_name] = HEAD_CLASSES[head](dim, num_classes, device=device, dtype=dtype)
        self._untrained.discard(adapter_name)
        if not train_head:
            self._untrained.add(adapter_name)
        if readout is not None:
            self.add_readout(adapter_name, readout)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def set_adapter(self, *arguments, **options) -> None:
        """As in PEFT, which switches gradients on for all that an adapter has here."""
        super().set_adapter(*arguments, **options)
        self.freeze_untrained()

    def set_requires_grad(self, *arguments, **options) -> None:
        """As in PEFT, but for heads that are not trained."""
        super().set_requires_grad(*arguments, **options)
        self.freeze_untrained()

    def freeze_untrained(self) -> None:
        """Switches gradients off for the heads that are not trained."""
        for name in self._untrained & self.sat_head.keys():
            self.sat_head[name].requires_grad_(False)

    def add_readout(self, adapter_name: str, readout: ClassReadout) -> None:
        """Gives an adapter a readout, in float32."""
        self.sat_readout[adapter_name] = readout

    def drop_readout(self, adapter_name: str) -> None:
        """Takes the readout of an adapter away, if it has one."""
        if adapter_name in self.sat_readout:
            del self.sat_readout[adapter_name]

    @property
    def readout(self) -> ClassReadout | None:
        """That of the active adapter; `None` while it trains or has none."""
        name = self.current_adapter
        return None if self.training or name not in self.sat_readout else self.sat_readout[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N + 1, D) tokens to (B, N, D): what the wrapped layer gives without the spatial token."""
        x = self.base_layer(x)
        if self.current_adapter is None:
            return x
        patches = x[:, self.token_index + 1 :]
        if self.sat_record.is_open:
            self.sat_record.patch_tokens = patches
        return torch.cat((x[:, : self.token_index], patches), dim=1)

    def classify(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) patch tokens to the (B, C) logits of the active adapter."""
        head = self.sat_head[self.current_adapter]
        # PEFT keeps adapter weights in float32 on a half-precision backbone; the sums over positions want it as well.
        return head(tokens.to(next(head.parameters()).dtype))


class TunedLayer(nn.Module, SatLayer):
    """A layer without children (linear, norm, layer scale, ...) of which every adapter has a private copy that trains.

    A linear layer may have its bias alone copied, and then shares the frozen weight.
    """

    adapter_layer_names = ("sat_full",)

    def __init__(self, base_layer: nn.Module, adapter_name: str):
        super().__init__()
        self.base_layer = base_layer
        self.sat_full = nn.ModuleDict()
        self._init_state(adapter_name)

    def update_layer(self, adapter_name: str, bias_only: bool, inference_mode: bool) -> None:
        """Adds the copy of an adapter, which starts with the weights of the base layer."""
        layer = self.get_base_layer()
        own = nn.ParameterDict({"bias": layer.bias.detach().clone()}) if bias_only else copy.deepcopy(layer)
        self.sat_full[adapter_name] = own
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = self.current_adapter
        if name is None:
            return self.base_layer(x)
        own = self.sat_full[name]
        # The copy may be in float32 on a half-precision backbone; the tokens keep the precision of the backbone.
        if isinstance(own, nn.ParameterDict):
            weight = self.get_base_layer().weight
            return F.linear(x, weight, own["bias"].to(weight.dtype))
        return own(x.to(next(own.parameters()).dtype)).to(x.dtype)


class InsertedLayer(nn.Module, SatLayer):
    """An adapter layer that wraps nothing: a child module of a part of the backbone, which asks for it by class."""

    MODULE_NAME: ClassVar[str]

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Nothing to do: there is no base layer, and parameters are made on the device of their owner."""

    @classmethod
    def of(cls, owner: nn.Module) -> Self | None:
        """The layer of this class below `owner`, if there is one."""
        return owner._modules.get(cls.MODULE_NAME)

    @classmethod
    def insert(cls, owner: nn.Module, adapter_name: str) -> Self:
        """The layer of this class below `owner`, which is added if there is none."""
        if cls.of(owner) is None:
            owner.add_module(cls.MODULE_NAME, cls(adapter_name))
        return cls.of(owner)


class TunedParameters(InsertedLayer):
    """Private copies of parameters that a block or attention module holds directly."""

    MODULE_NAME = "sat_tuned_parameters"
    adapter_layer_names = ("sat_full",)

    def __init__(self, adapter_name: str):
        super().__init__()
        self.sat_full = nn.ModuleDict()
        self._init_state(adapter_name)

    def update_layer(self, adapter_name: str, owner: nn.Module, names: tuple[str, ...], inference_mode: bool) -> None:
        """Adds copies of the parameters `names` of `owner`."""
        copies = nn.ParameterDict({name: owner._parameters[name].detach().clone() for name in names})
        self.sat_full[adapter_name] = copies.requires_grad_(adapter_name in self.active_adapters and not inference_mode)

    def active_copy(self, name: str) -> torch.Tensor | None:
        """The active adapter's copy of parameter `name`, which may be float32 on a half-precision base, or `None`."""
        adapter = self.current_adapter
        if adapter is None:
            return None
        copies = self.sat_full[adapter]
        return copies.get(name)


class MaskCalibration(InsertedLayer):
    """Scale and shift of the mask logits of a spatial block, below its attention module."""

    MODULE_NAME = "sat_mask_calibration"
    adapter_layer_names = ("sat_mask_scale", "sat_mask_shift")

    def __init__(self, adapter_name: str):
        super().__init__()
        self.sat_mask_scale, self.sat_mask_shift = nn.ParameterDict(), nn.ParameterDict()
        # While set: the next logits decide scale and shift, so that masks have this mean over these positions.
        self.calibrates_to: tuple[float, slice] | None = None
        self._init_state(adapter_name)

    def update_layer(self, adapter_name: str, device, inference_mode: bool) -> None:
        """Adds scale 1 and shift 0 of an adapter."""
        self.sat_mask_scale[adapter_name] = nn.Parameter(torch.ones(1, device=device))
        self.sat_mask_shift[adapter_name] = nn.Parameter(torch.zeros(1, device=device))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, N) float32 mask logits to what the active adapter makes of them."""
        name = self.current_adapter
        if name is None:
            return logits
        if self.calibrates_to is not None:
            self._calibrate(logits)
        return logits * self.sat_mask_scale[name].to(logits.dtype) + self.sat_mask_shift[name].to(logits.dtype)

    @torch.no_grad()
    def _calibrate(self, logits: torch.Tensor) -> None:
        mean, positions = self.calibrates_to
        values = logits[:, positions]
        # Logits without any contrast are only shifted: stretching them would make objects of rounding errors.
        deviation = values.std(1).mean()
        scale = torch.where(deviation > 1e-4, 1 / deviation, 1.0)
        self.sat_mask_scale[self.current_adapter].fill_(scale)
        self.sat_mask_shift[self.current_adapter].fill_(math.log(mean / (1 - mean)) - scale * values.mean())


def tuned_parameter(name: str) -> property:
    """A property for a parameter that a module holds directly, outside any layer with a `forward` of its own.

    Reads the active adapter's private copy if there is one, else the base parameter, which stays registered as before.
    """

    def read(self: nn.Module) -> nn.Parameter | None:
        tuned = TunedParameters.of(self)
        base = self._parameters.get(name)  # absent if the module was created without it
        copy = tuned.active_copy(name) if tuned is not None else None
        return base if copy is None else copy.to(base.dtype)

    return property(read)
