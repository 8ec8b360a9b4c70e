"""Serves a trained model to Label Studio, as the ML backend of a project.

    sat-peft label-studio --run runs/NAME

Connect it in the project's *Settings, Model* under the address that is told. Label Studio, on the same machine or
another, then asks it for the boxes of every task; outlines or masks where the project draws with polygons or brushes.
Label Studio refuses addresses of its own machine or network unless it was started with `ML_BLOCK_LOCAL_IP=false` and
`SSRF_PROTECTION_ENABLED=false` in its environment. Needs the extra `label_studio`
(`pip install 'sat_peft[label_studio]'`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from sat_peft.commands.command_line import localizer_of
from sat_peft.errors import UsageError
from sat_peft.options.choices import TtaName
from sat_peft.options.trained import TrainedOptions

INTERRUPTED = "the backend is closed"


@dataclass(frozen=True, kw_only=True)
class Config(TrainedOptions):
    threshold: float | None = None
    """Threshold of the maps; by default the one that the run chose, else the protocol's."""
    multi: bool = False
    """Whether there is a region for every component of a map, instead of the largest one alone."""
    tta: TtaName | None = None
    """Test-time augmentation; by default that of the run, `none` for an adapter."""
    host: str = "127.0.0.1"
    """Address that the backend listens at; 0.0.0.0 lets other machines in, to whom it fetches any image they name."""
    port: int = 9090
    """Port that the backend listens at."""


def main(config: Config) -> None:
    if find_spec("label_studio_sdk") is None:
        raise UsageError(
            "the backend needs Label Studio's SDK, which is not installed: pip install 'sat_peft[label_studio]'."
        )
    from sat_peft.plugins.label_studio import Backend, BackendServer

    backend = Backend(localizer_of(config), multi=config.multi)
    with BackendServer(backend, config.host, config.port) as server:
        print(f"{backend.version} is at http://{config.host}:{server.server_port}", flush=True)
        server.serve_forever()
