"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers.

With the package imported, timm knows the embedded backbone and PEFT the method "SAT". The names of `__init__.pyi` are
imported when they are first used, since most of them need torch, so that command lines answer at once.
"""

from importlib import import_module

import lazy_loader
from wrapt import when_imported

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


# Whoever can name the backbone or read an adapter has imported timm or PEFT, before or after this package.
@when_imported("timm")
def _register_backbone(timm: object) -> None:
    import_module("sat_peft.nano")


@when_imported("peft")
def _register_method(peft: object) -> None:
    import_module("sat_peft.tuner")
