"""What the tests of research data sets write: tiny images and text files."""

from pathlib import Path

from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (40, 30), **options) -> Path:
    """A black image of (width, height) pixels; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)
    return path


def write_text(path: Path, *lines: str) -> Path:
    """A text file of these lines; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def annotation_xml(*objects: tuple) -> str:
    """XML of objects (name, xmin, ymin, xmax, ymax), as ImageNet's."""
    elements = (
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    return f"<annotation><size><width>40</width><height>30</height></size>{''.join(elements)}</annotation>"
