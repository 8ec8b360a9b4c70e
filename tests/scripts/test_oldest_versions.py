"""The lower bounds as versions to install; the environment with them is made by hand."""

import pytest

from oldest_versions import EXTRAS, main, oldest_versions


def test_every_bound_of_the_project_is_a_version(capsys):
    versions = dict(line.split("==") for line in oldest_versions())
    assert {"torch", "timm", "peft", "accelerate", "numpy", "pytest", "onnx"} <= set(versions)
    assert "sat_peft" not in versions
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}=={version}" for name, version in versions.items()]


@pytest.mark.parametrize("line", ["torch", "torch==2.8", "torch>=2.8,<3"])
def test_other_requirements_are_refused(tmp_path, line):
    config = "[metadata]\nname = own\n[options]\ninstall_requires =\n    {}\n[options.extras_require]\n"
    extras = "".join(f"{name} =\n    own\n" for name in EXTRAS)
    (tmp_path / "setup.cfg").write_text(config.format(line) + extras)
    with pytest.raises(ValueError, match="one lower bound"):
        oldest_versions(tmp_path / "setup.cfg")
