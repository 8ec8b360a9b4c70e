"""The named evaluation protocols, one file each: a module of this package is the protocol of its name.

Each defines `PROTOCOL`, frozen settings, so that numbers which do not compare never share a name.
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from sat_peft.errors import unknown_choice
from sat_peft.localization.protocol import Protocol

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {name: import_module(f"{__name__}.{name}").PROTOCOL for _, name, _ in pkgutil.iter_modules(__path__)}
)


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a `Protocol` passes through. Raises `UsageError` with the valid names."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise unknown_choice("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]
