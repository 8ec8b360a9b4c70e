"""Where the settings of a recipe come from, and what is said of those that cannot be."""

import io
import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from sat_peft.commands.command_line import messages_on_stdout, parse, read_config, run
from sat_peft.errors import UsageError
from sat_peft.runs.termination import Terminated


@dataclass(frozen=True)
class Config:
    preset: str | None = None
    config: Path | None = None
    resume: Path | None = None
    output: Path | None = None
    data: str = "part_scenes"
    difficulty: str | None = None
    weights: Path | None = None
    shots: tuple[int, ...] = (1,)
    learning_rate: float = 1.0
    threads: int | None = None


PRESETS = {
    "slow": {"learning_rate": 0.1, "shots": (2, 3)},
    "part_scenes": {"learning_rate": 0.2},
    "cluttered_scenes": {"learning_rate": 0.4, "difficulty": "cluttered"},
    "photos": {"learning_rate": 0.3},
}


def parsed(*arguments: str) -> Config:
    return parse(Config, PRESETS, description="A recipe.", arguments=list(arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an earlier run."""
    earlier = Config(output=tmp_path, weights=Path("w.safetensors"), shots=(5, 6), learning_rate=0.5, threads=7)
    (tmp_path / "config.json").write_text(json.dumps(asdict(earlier), default=str))
    return tmp_path


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_defaults():
    assert parsed() == Config(preset="part_scenes", learning_rate=0.2)
    assert parsed("--preset", "slow") == Config(preset="slow", learning_rate=0.1, shots=(2, 3))
    assert parsed("--preset=slow", "--learning-rate", "3").learning_rate == 3


def test_data_of_ones_own_gets_the_preset_for_photographs_and_records_it():
    assert parsed("--data", "birds") == Config(data="birds", preset="photos", learning_rate=0.3)
    assert parsed("--data=birds", "--preset", "slow").learning_rate == 0.1


def test_scenes_with_clutter_get_their_preset_and_the_preset_has_them():
    cluttered = Config(preset="cluttered_scenes", difficulty="cluttered", learning_rate=0.4)
    assert parsed("--difficulty", "cluttered") == parsed("--preset", "cluttered_scenes") == cluttered
    assert parsed("--difficulty", "hard") == Config(preset="part_scenes", difficulty="hard", learning_rate=0.2)
    assert parsed("--preset", "slow", "--difficulty=cluttered").learning_rate == 0.1


def test_settings_of_an_earlier_run_are_read_back_with_their_types_but_not_its_folder(folder):
    expected = Config(config=folder, weights=Path("w.safetensors"), shots=(5, 6), learning_rate=0.5)
    assert parsed("--config", str(folder)) == expected
    file = folder / "config.json"
    assert parsed("--config", str(file), "--shots", "9").shots == (9,)


def test_a_resumed_run_has_its_own_settings_and_folder(folder):
    resumed = parsed("--resume", str(folder), "--threads", "2")
    assert (resumed.output, resumed.learning_rate, resumed.threads) == (folder, 0.5, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "slwo"], "unknown preset 'slwo'. Did you mean 'slow'"),
        (["--config", "gone"], "'gone' does not exist"),
        (
            ["--resume", "FOLDER", "--learning-rate", "2"],
            "learning_rate 0.5; it cannot go on with 2.0",
        ),
        (["--resume", "FOLDER", "--config", "FOLDER"], "leave out --config"),
        (["--resume", "FOLDER", "--output", "elsewhere"], "leave out --output elsewhere"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, arguments, words):
    with pytest.raises(UsageError, match=words):
        parsed(*[str(folder) if argument == "FOLDER" else argument for argument in arguments])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it is no JSON"),
        ("[1]", "it is not the configuration of a run"),
        ('{"learning_rate": "fast"}', "'learning_rate' must be float, not 'fast'"),
        ('{"colour": 1}', "does not know: colour"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        read_config(tmp_path, Config)


def test_a_mistake_is_a_line_and_status_2(capsys):
    def main(options):
        raise UsageError("not like this")

    with pytest.raises(SystemExit) as caught:
        run(main, lambda: None, interrupted="nothing is lost")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "\nerror: not like this\n"


def test_what_the_package_tells_is_printed_by_commands_alone(capsys):
    logger = logging.getLogger("sat_peft.data.splits")
    logger.info("told to nobody")
    for _ in range(2):
        run(lambda options: logger.info("told once"), dict, interrupted="nothing")
    logger.info("told to nobody")
    assert capsys.readouterr() == ("told once\ntold once\n", "")


@pytest.mark.parametrize(("rank", "told"), [("0", "how it goes\nwhat is wrong\n"), ("1", "")])
def test_the_main_process_alone_tells_how_it_goes(monkeypatch, capsys, rank, told):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with messages_on_stdout():
        logging.getLogger("sat_peft.training.loop").info("how it goes")
        logging.getLogger("sat_peft.cpu").warning("what is wrong")
    assert capsys.readouterr().out == told


def test_other_errors_keep_their_traceback():
    def main(options):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(main, lambda: None, interrupted="nothing is lost")


def test_a_resumed_run_takes_its_paths_as_they_were_given(tmp_path, monkeypatch):
    """config.json has them absolute, the command line as they were typed the first time."""
    run = tmp_path / "run"
    run.mkdir()
    recorded = Config(output=run, weights=tmp_path / "data" / "w.safetensors")
    (run / "config.json").write_text(json.dumps(asdict(recorded), default=str))
    monkeypatch.chdir(tmp_path)
    for given in ("data/w.safetensors", "./data/../data/w.safetensors", str(tmp_path / "data/w.safetensors")):
        assert parsed("--resume", str(run), "--weights", given).weights == recorded.weights
    with pytest.raises(UsageError, match="was started with weights"):
        parsed("--resume", str(run), "--weights", "other/w.safetensors")


@pytest.mark.parametrize("written", [["--resume", "auto"], ["--resume=auto"]])
def test_resume_auto_starts_goes_on_or_has_nothing_to_do(tmp_path, written, capsys):
    run = tmp_path / "run"
    arguments = [*written, "--output", str(run), "--learning-rate", "0.5"]
    assert parsed(*arguments).resume is None
    run.mkdir()
    (run / "status.json").write_text('{"status": "starting"}')
    assert parsed(*arguments).resume is None
    (run / "config.json").write_text(json.dumps(asdict(Config(output=run, learning_rate=0.5)), default=str))
    (run / "status.json").write_text('{"status": "running"}')
    assert parsed(*arguments).resume == run
    (run / "status.json").write_text('{"status": "finished"}')
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 0
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--output"):
        parsed("--resume", "auto")


def test_a_run_of_which_nothing_was_computed_is_started_by_its_command(tmp_path):
    (tmp_path / "status.json").write_text('{"status": "starting"}')
    with pytest.raises(UsageError, match="Give the command that started it again"):
        parsed("--resume", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (OSError(28, "No space left on device", "/data/x"), "no space is left for '/data/x'", 2),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "temporary files in", 2),
        (PermissionError(13, "Permission denied", "/data/x"), "refuses '/data/x' (Permission denied)", 2),
        (Terminated(), "go on with it", 143),
        (KeyboardInterrupt(), "go on with it", 1),
    ],
)
def test_errors_of_the_system_and_signals_end_a_command_with_a_line(error, words, code, capsys):
    def main(options):
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main, lambda: None, interrupted="go on with it")
    assert ended.value.code == code
    assert words in capsys.readouterr().err


def test_a_console_of_few_characters_gets_escapes(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    run(lambda config: print("größe 猫 \udce9"), Config, interrupted="")
    sys.stdout.flush()
    assert written.getvalue().decode("cp1252").strip() == r"größe \u732b \udce9"
