"""The programs in README.md, run as they stand there."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

README = Path(__file__).parents[1] / "README.md"


def program(marker: str) -> str:
    """The Python block below a comment of README.md."""
    text = README.read_text(encoding="utf-8")
    return re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", text, re.DOTALL).group(1)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    for name in ("ant/1.jpg", "ant/2.png", "bee/1.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((120, 90), 90).convert("RGB").save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_pytorch_loop_trains_saves_and_localises(photos, capsys):
    whole = program("plain PyTorch loop")
    short = whole.replace("range(150)", "range(2)")
    assert short != whole
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(short, "README.md", "exec"), names)
    assert (photos / "adapter" / "adapter_model.safetensors").is_file()
    assert names["loss"].total.isfinite()
    assert names["found"].label in ("ant", "bee")
    assert names["found"].image_size == (120, 90)
    assert "trainable params" in capsys.readouterr().out
