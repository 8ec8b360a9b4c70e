"""Serves a page to try a trained model on: drop an image, see class, map and box.

    sat-peft demo --run runs/NAME

The threshold of the maps can be moved, and the box downloaded as JSON. Baselines that were trained with the run stand
beside SAT. Needs the extra `demo` (`pip install 'sat_peft[demo]'`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from sat_peft.errors import UsageError
from sat_peft.options.trained import TrainedOptions

INTERRUPTED = "the page is closed"


@dataclass(frozen=True, kw_only=True)
class Config(TrainedOptions):
    threshold: float | None = None
    """Where the threshold of the maps starts; by default the one that the run chose, else the protocol's."""
    host: str = "127.0.0.1"
    """Address that the page is served at; 0.0.0.0 lets other machines in."""
    port: int | None = None
    """Port; by default the first free one from 7860 on."""


def main(config: Config) -> None:
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio, which is not installed: pip install 'sat_peft[demo]'.")
    folder = config.trained_folder()
    # With torch and PEFT, which reading a command line does without.
    from sat_peft.plugins.demo import Methods, serve

    methods = Methods(folder, threshold=config.threshold, backbone=config.backbone, weights=config.weights)
    serve(methods, folder.resolve().name, host=config.host, port=config.port)
