"""The picture of examples: boxes where they belong, in a file that is written whole."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sat_peft.report.examples import Example, draw_examples


def example(size=(40, 30), true=((5, 5, 20, 20),)) -> Example:
    width, height = size
    return Example(
        image=np.full((height, width, 3), 128, np.uint8),
        scores=np.zeros((height, width), np.float32),
        predicted=np.array([10.0, 2.0, 30.0, 25.0]),
        true=np.array(true, float).reshape(-1, 4),
        title="stag\nIoU 0.50",
    )


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def spy(figure, *args, **kwargs):
        figures.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def test_boxes_are_drawn_on_the_edges_of_their_pixels(tmp_path, drawn):
    draw_examples(tmp_path / "a.png", {"Best": [example(true=((5, 5, 20, 20), (0, 0, 40, 30)))]})
    plain, overlaid = drawn[0].subfigs[0].axes
    for axes in (plain, overlaid):
        edges = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
        assert edges == [(4.5, 4.5, 15, 15), (-0.5, -0.5, 40, 30), (9.5, 1.5, 20, 23)]
        assert [patch.get_linestyle() for patch in axes.patches] == ["-", "-", "--"]
    assert (len(plain.images), len(overlaid.images)) == (1, 2)
    assert overlaid.images[1].get_clim() == (0, 1)
    assert plain.get_title(loc="left") == "stag\nIoU 0.50"


def test_rows_may_differ_in_length_and_empty_ones_are_left_out(tmp_path, drawn):
    rows = {"Best": [example(), example(size=(20, 60))], "Median": [], "Worst": [example(true=())]}
    draw_examples(tmp_path / "a.png", rows)
    panels = drawn[0].subfigs
    assert [panel._suptitle.get_text() for panel in panels] == ["Best", "Worst"]
    assert [[len(axes.images) for axes in panel.axes] for panel in panels] == [[1, 2, 1, 2], [1, 2, 0, 0]]
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_failed_drawing_leaves_the_old_picture_and_no_other_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_text("old")

    def full_disk(figure, path, **options):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        draw_examples(tmp_path / "a.png", {"Best": [example()]})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.png": "old"}
