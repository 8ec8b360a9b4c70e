"""Lines of a plot can be told apart, however many methods a run has."""

from sat_peft.evaluation.registry import method_titles
from sat_peft.report.curves import iou_figure, threshold_figure


def test_no_two_methods_look_the_same():
    titles = list(method_titles().values())
    curves = {title: ([0.0, 1.0], [50.0, 0.0]) for title in titles}
    figure = threshold_figure(curves, dict.fromkeys(titles, 0.5), title="accuracy")
    lines = figure.axes[0].get_lines()[::2]  # each is followed by its dot
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(titles)
    histogram = iou_figure({title: [1] * 20 for title in titles}, title="IoU")
    stairs = histogram.axes[0].patches
    assert len({(patch.get_edgecolor(), str(patch.get_linestyle())) for patch in stairs}) == len(titles)
