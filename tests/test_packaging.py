"""What a wheel and a source distribution hold, and that the recipes are found in each, as in a checkout."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ACCELERATE = [path.name for path in (ROOT / "recipes" / "accelerate").iterdir() if path.suffix in (".yaml", ".md")]
RECIPES = ["few_shot.py", "full_data.py", "low_param.py", *(f"accelerate/{name}" for name in ACCELERATE)]

pytestmark = pytest.mark.slow


def python(*arguments: object, cwd: Path, path: Path | None = None) -> str:
    environment = {"PYTHONPATH": str(path), "HOME": str(cwd)} if path else None
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The files that git has, without a link among them: building writes beside its sources."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if files.returncode:
        pytest.skip("needs git, which tells the files of the project")
    for name in files.stdout.splitlines():
        source = ROOT / name
        if not name.startswith("tests/") and source.exists():
            assert not source.is_symlink()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", reason="builds without isolation, which needs setuptools")
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    python("-c", build, cwd=checkout)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    [unpacked] = [path for path in folder.iterdir() if path.is_dir()]
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the source distribution, so that nothing it needs is missing there."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, sdist, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_the_recipes_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in RECIPES:
            assert archive.read(f"sat_peft/recipes/{name}") == (ROOT / "recipes" / name).read_bytes()
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sat_peft").rglob("*.py")}
        # That of the folder of recipes finds them in a checkout alone.
        assert modules - names == {"sat_peft/recipes/__init__.py"}
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"sat_peft"}
        assert "sat_peft/py.typed" in names
        [points] = [name for name in names if name.endswith("entry_points.txt")]
        assert b"sat-peft = sat_peft.__main__:main" in archive.read(points)


@pytest.mark.parametrize("form", ["checkout", "sdist", "installed"])
def test_recipes_are_found(form, request, tmp_path):
    folder = request.getfixturevalue(form)
    told = python("-m", "sat_peft", "train", "few_shot", "--help", cwd=tmp_path, path=folder)
    assert told.startswith("usage: sat-peft train few_shot")
    python("-m", "sat_peft", "recipe", "full_data", tmp_path / "copy", cwd=tmp_path, path=folder)
    assert (tmp_path / "copy" / "full_data.py").read_bytes() == (ROOT / "recipes" / "full_data.py").read_bytes()
    where = python("-c", "import sat_peft; print(sat_peft.__file__)", cwd=tmp_path, path=folder)
    assert Path(where.strip()).is_relative_to(folder)
