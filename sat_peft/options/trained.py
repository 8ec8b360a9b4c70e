"""What names a trained model on a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sat_peft.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """A run or an adapter, and what it was trained on."""

    run: Path | None = None
    """Run folder of a training recipe: names the adapter, the backbone, the data and the threshold."""
    adapter: Path | None = None
    """Adapter folder, instead of a run; what it does not record is named by other options."""
    backbone: str | None = None
    """Name of the backbone; by default the one that the run or the adapter records."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""

    def trained_folder(self) -> Path:
        """The run or the adapter.

        Raises:
            UsageError: both are named, or neither.
        """
        if (self.run is None) == (self.adapter is None):
            raise UsageError("name either a run folder with --run or an adapter folder with --adapter.")
        return self.run or self.adapter

    def output_folder(self, output: Path | None, name: str) -> Path:
        """The folder for what is made of the model: `output`, the option, or the one called `name` in the run folder.

        Raises:
            UsageError: an adapter alone, and no `output`.
        """
        if output is not None:
            return output
        if self.run is None:
            raise UsageError("an adapter folder holds nothing but the adapter; name a folder with --output.")
        return self.run / name
