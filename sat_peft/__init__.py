"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers."""

import sat_peft.nano  # noqa: F401  (registers the embedded backbone with timm)
from sat_peft.version import __version__

__all__ = ["__version__"]
