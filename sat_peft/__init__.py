"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers."""

from sat_peft.version import __version__

__all__ = ["__version__"]
