"""Runs the few-shot recipe for several seeds and choices of what is tuned, and prints the table that README quotes.

    python scripts/compare_tuning.py --output runs/compare_tuning

Every cell is a run folder of its own; finished cells are not run again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

RECIPE = Path(__file__).parents[1] / "recipes" / "few_shot.py"


@dataclass(frozen=True)
class Config:
    output: Path = Path("runs/compare_tuning")
    """Folder of the run folders and of table.md."""
    tune: tuple[str, ...] = ("lora:6:class_token", "lora:6:random", "full:6:random")
    """TUNE:K:INIT to compare: --tune, --num-spatial-blocks and --token-init of the recipe."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds to run each of them with."""
    shots: int = 1
    """Images per class."""
    threads: int | None = None
    """Threads of a run; by default all cores."""


def run_cell(folder: Path, arguments: list[str]) -> dict:
    """The results of one run, from its folder if it has finished before."""
    results = folder / "results.json"
    if not results.exists():
        command = [sys.executable, "-m", "accelerate.commands.launch", str(RECIPE), "--output", str(folder)]
        subprocess.run([*command, "--overwrite", *arguments], check=True)
    return json.loads(results.read_text())


def summary(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def table_row(title: str, parameters: str, seconds: str, figures: list[dict], columns: list[str]) -> str:
    cells = [summary([figure[key] for figure in figures]) for key in columns]
    return "| " + " | ".join([title, parameters, *cells, seconds]) + " |"


def main(config: Config) -> None:
    # Heavy: it brings torch.
    from sat_peft.report.tables import FIGURES

    lines = [
        f"PartScenes, {config.shots} image(s) per class, mean and standard deviation over {len(config.seeds)} seeds, "
        "percent, protocol `original`, threshold from the validation split",
        "",
        "| method | trained parameters | " + " | ".join(FIGURES.values()) + " | seconds |",
        "| --- | ---: | " + "---: | " * (len(FIGURES) + 1),
    ]
    threads = [] if config.threads is None else ["--threads", str(config.threads)]
    for choice in config.tune:
        tune, blocks, token_init = choice.split(":")
        options = ["--tune", tune, "--num-spatial-blocks", blocks, "--token-init", token_init, *threads]
        options += ["--shots", str(config.shots)]
        cells = [
            run_cell(
                config.output / f"{tune}-k{blocks}-{token_init}-shots{config.shots}-seed{seed}",
                [*options, "--seed", str(seed)],
            )
            for seed in config.seeds
        ]
        methods = [cell["methods"] for cell in cells]
        seconds = f"{statistics.median(cell['seconds'] for cell in cells):.0f}"
        parameters = f"{cells[0]['trainable_parameters']:,}"
        lines.append(
            table_row(
                f"SAT, tune {tune}, K = {blocks}, token from {token_init}",
                parameters,
                seconds,
                [m["sat"] for m in methods],
                [*FIGURES],
            )
        )
    # The baselines do not depend on `tune`; those of its last value stand for all.
    lines.append(table_row("CAM", "", "", [m["cam"] for m in methods], [*FIGURES]))
    lines.append(table_row("centre box", "", "", [m["centre_box"] for m in methods], [*FIGURES]))
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
