"""Small data sets, and what the check and a training make of them."""

from pathlib import Path

from PIL import Image

from sat_peft.data.check import check_data
from sat_peft.data.loaders import ImageRows
from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

SIZE = (120, 80)
SPLITS = ("train", "test")


def write_image(file: Path, number: int = 0, size=SIZE, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 20 % 256, 90, 30)).save(file, **options)
    return file


def read(root: Path, source: str, split: str = "train", **options) -> tuple[list, list[str]]:
    problems = Problems()
    rows = load_source(source, split, root=root, problems=problems, **options)
    return rows["boxes"][:], problems.lines()


def checked(root: Path, source: str, **options):
    return check_data(
        lambda split, problems: load_source(source, split, root=root, problems=problems, **options), workers=1
    )


def trains(root: Path, source: str, *, skip: bool = False, **options) -> bool:
    """Whether what a training reads can be read."""
    try:
        for split in SPLITS:
            rows = load_source(source, split, root=root, problems=Problems(skip=skip), **options)
            images = ImageRows(rows, lambda image: image)
            for index in range(len(images)):
                images[index]
    except UsageError:
        return False
    return True
