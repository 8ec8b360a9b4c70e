"""The command that serves a model to Label Studio, where its SDK is missing; with it, see tests/plugins."""

import pytest

from sat_peft.commands.console import main


def test_missing_sdk_is_told_with_what_brings_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sat_peft.commands.label_studio.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["label-studio", "--run", str(tmp_path)])
    assert end.value.code == 2
    assert "pip install 'sat_peft[label_studio]'" in capsys.readouterr().err
