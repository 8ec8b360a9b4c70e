"""Adapter folders: written whole or not at all, read without unpickling."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import typing
import uuid
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors.torch import save
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, check_values, is_file, read_json_object, read_safetensors
from sat_peft.tuner.card import CARD_NAME
from sat_peft.tuner.config import PEFT_TYPE, SatConfig

_COPY = "Copy or save the adapter again."
# Fields whose types are checked; PEFT's own are what its versions make them.
_CHECKED = {field.name for field in dataclasses.fields(SatConfig)}
_CHECKED -= {field.name for field in dataclasses.fields(LoraConfig)}
_CHECKED |= {"r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern", "modules_to_save"}
ADAPTER_FILES = frozenset({CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, CARD_NAME})


def save_adapter(peft_model: PeftModel, directory: str | Path, adapter_name: str = "default") -> Path:
    """Saves one adapter as `adapter_config.json`, `adapter_model.safetensors` and a model card `README.md`.

    The files are written to a folder beside `directory`, flushed to disk and renamed, so that no reader and no crash
    ever sees half an adapter. A previous adapter is renamed aside first and removed last: a crash between the two
    renames leaves it beside `directory`, and `load_adapter` then says where. Call it in one process only.
    `PeftModel.from_pretrained` and `load_adapter` both read the folder.

    Args:
        peft_model: Model with SAT adapters, unwrapped (`accelerator.unwrap_model`).
        directory: Folder to write. An adapter that it already holds is replaced.
        adapter_name: Adapter to save; its name is not stored.

    Returns:
        The folder.

    Raises:
        UsageError: if there is no such adapter, or the folder holds other files.
    """
    if adapter_name not in peft_model.peft_config:
        raise UsageError(f"no adapter {adapter_name!r}; the model has: {', '.join(peft_model.peft_config)}.")
    target = Path(directory).resolve()
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex[:8]
    staging = target.with_name(f".{target.name}.saving-{unique}")
    replaced = target.with_name(f".{target.name}.replaced-{unique}")
    staging.mkdir()
    try:
        _write(peft_model, adapter_name, staging)
        if target.exists():
            target.rename(replaced)
        try:
            staging.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
        _flush(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"cannot save an adapter at {target}: a file is there. Choose a folder.")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in ADAPTER_FILES)
    if foreign:
        raise UsageError(
            f"will not replace {target}: it holds files that are no part of an adapter ({', '.join(foreign)}). Choose "
            "a new or empty folder."
        )


def _write(peft_model: PeftModel, adapter_name: str, folder: Path) -> None:
    weights = get_peft_model_state_dict(peft_model, adapter_name=adapter_name)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # safetensors' save_file makes files that nobody but their owner may read, whatever the umask.
    (folder / SAFETENSORS_WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = copy.deepcopy(peft_model.peft_config[adapter_name])
    config.inference_mode = True  # as PEFT saves it: a loaded adapter is frozen unless asked otherwise
    config.save_pretrained(str(folder))
    for path in folder.iterdir():
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    """Waits until a file or the entries of a folder are on disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        if path.is_dir():
            return  # Windows opens no folder, and writes its entries by itself.
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_adapter(
    backbone: nn.Module, directory: str | Path, adapter_name: str = "default", is_trainable: bool = False
) -> PeftModel:
    """Loads a saved SAT adapter onto its backbone. Only safetensors are read; nothing is unpickled.

    Args:
        backbone: The bare timm model, changed in place, or a `PeftModel` with other SAT adapters, to which one is added
            without becoming the active one.
        directory: Folder written by `save_adapter` or by PEFT's `save_pretrained`.
        adapter_name: Name that the adapter gets.
        is_trainable: Whether to train on. Otherwise the adapter is frozen and the model set to evaluation mode.

    Returns:
        The model with the adapter.

    Raises:
        UsageError: naming the file, if the folder holds no SAT adapter, a file is damaged, the weights do not match the
            configuration or the backbone does not fit. The backbone is left as it was.
    """
    directory = Path(directory)
    config = _read_config(directory)
    weights = _read_weights(directory)
    _check_sizes(config, weights, directory / CONFIG_NAME)
    config.inference_mode = not is_trainable
    added = isinstance(backbone, PeftModel)
    if added and adapter_name in backbone.peft_config:
        raise UsageError(f"the model already has an adapter {adapter_name!r}. Choose another adapter_name.")
    try:
        if added:
            model = backbone
            model.add_adapter(adapter_name, config)
        else:
            model = PeftModel(backbone, config, adapter_name=adapter_name)
        try:
            set_peft_model_state_dict(model, weights, adapter_name=adapter_name)
        except Exception:
            _ = model.delete_adapter(adapter_name) if added else model.unload()
            raise
    except Exception as error:  # what a configuration of impossible values leads to is told by no list
        raise UsageError(f"cannot load the adapter in {directory}: {error}") from error
    if not is_trainable:
        model.eval()
    elif added:
        model.set_requires_grad(adapter_name)
    return model


def load_adapter_weights(peft_model: PeftModel, directory: str | Path, adapter_name: str = "default") -> None:
    """Reads the weights of a saved adapter into one of the same configuration that the model has.

    Raises:
        UsageError: naming the file, if it is missing, damaged or of another configuration.
    """
    weights = _read_weights(Path(directory))
    # What is fitted after the training is no part of it: a killed run may have saved it already, and fits it again.
    weights = {name: value for name, value in weights.items() if ".sat_readout." not in name}
    set_peft_model_state_dict(peft_model, weights, adapter_name=adapter_name)


def _read_config(directory: Path) -> SatConfig:
    path = directory / CONFIG_NAME
    if not is_file(path):
        left_over = sorted(p.name for p in directory.parent.glob(f".{directory.name}.replaced-*"))
        hint = f" An interrupted save left the previous adapter in {left_over[-1]}." if left_over else ""
        raise UsageError(f"no adapter in {directory}: {CONFIG_NAME} is missing.{hint}")
    values = read_json_object(path, "the configuration of an adapter")
    peft_type = values.get("peft_type")
    if peft_type != PEFT_TYPE:
        raise UsageError(
            f"{path} describes an adapter of type {peft_type!r}, not {PEFT_TYPE.value!r}. Load it with PEFT itself."
        )
    check_values(
        path,
        values,
        {
            name: hint
            for name, hint in typing.get_type_hints(SatConfig).items()
            # Of choices the configuration itself says which there are.
            if name in _CHECKED and typing.get_origin(hint) is not typing.Literal
        },
    )
    try:
        return SatConfig.from_pretrained(str(directory))
    except Exception as error:  # PEFT raises whatever it trips over
        raise UsageError(f"{path} is not valid: {error}") from error


def _check_sizes(config: SatConfig, weights: dict, path: Path) -> None:
    """Refuses sizes that the weights do not have, before a model of them takes all memory."""
    if not any(config.num_classes in tensor.shape for tensor in weights.values()):
        raise FileProblem(
            path, f"'num_classes' is {config.num_classes}, which the weights beside it are not of.", _COPY
        )
    ranks = {size for name, tensor in weights.items() if "lora_" in name for size in tensor.shape}
    wanted = max(config.r, *(config.rank_pattern or {}).values(), 0)
    if config.tune == "lora" and ranks and wanted not in ranks and wanted > max(ranks):
        raise FileProblem(path, f"the rank of LoRA is {wanted}, and the weights are of another.", _COPY)


def _read_weights(directory: Path) -> dict:
    path = directory / SAFETENSORS_WEIGHTS_NAME
    if not is_file(path):
        pickled = is_file(directory / WEIGHTS_NAME)
        reason = f" {WEIGHTS_NAME} is a pickle, which could run code, and is not read." if pickled else ""
        raise UsageError(f"no weights in {directory}: {SAFETENSORS_WEIGHTS_NAME} is missing.{reason}")
    return read_safetensors(path)
