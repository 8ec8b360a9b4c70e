"""How cost grows: exponents over small sizes, and what is counted for images."""

from types import SimpleNamespace

import pytest
from torch.utils.flop_counter import FlopCounterMode

import benchmark.measure
from benchmark.growth import (
    Axis,
    axes,
    count_backbone_parameters,
    measure_axis,
    measure_image_counts,
    measure_images,
    write_images,
)
from benchmark.regimes import Workload
from sat_peft.data.sources import load_source

WORKLOAD = Workload("test_vit", image_size=32, num_classes=3, batch_size=2, num_spatial_blocks=2)


def test_an_axis_gives_a_cost_for_every_point_and_an_exponent(monkeypatch):
    axis = Axis("batch", {"1": ({"batch_size": 1}, 1), "4": ({"batch_size": 4}, 4)})
    with FlopCounterMode(display=False) as counter:
        # A clock that goes on with the work itself, whatever else the machine does.
        clock = SimpleNamespace(perf_counter=counter.get_total_flops, process_time=counter.get_total_flops)
        monkeypatch.setattr(benchmark.measure, "time", clock)
        rows = measure_axis(axis, WORKLOAD, ["last_blocks_late", "token_late"], rounds=3)
    assert [(row["axis"], row["regime"]) for row in rows] == [("batch", "last_blocks_late"), ("batch", "token_late")]
    for row in rows:
        small, large = row["processor_seconds"].values()
        assert 0 < small < large
        assert row["exponent"] == pytest.approx(1, abs=0.01)  # four times the images, four times the products


def test_sizes_of_the_axes():
    found = {axis.name: axis for axis in axes(backbones=("test_vit", "deit_tiny_patch16_224"))}
    assert list(found) == ["side of the image", "batch", "parameters", "classes"]
    assert found["side of the image"].points["320"] == ({"image_size": 320}, 320)
    changes, size = found["parameters"].points["tiny"]
    assert changes == {"backbone": "deit_tiny_patch16_224"}
    assert 5.4e6 < size == count_backbone_parameters("deit_tiny_patch16_224") < 5.6e6


def test_images_are_as_many_as_asked_for_each_with_a_box(tmp_path):
    write_images(tmp_path, 130)  # more than are drawn
    rows = load_source("folder", "test", root=tmp_path)
    assert len(rows) == 130
    assert all(len(boxes) == 1 for boxes in rows["boxes"])


def test_images_cost_time_in_loader_and_evaluator():
    found = measure_images(12)
    assert found["loader"] > 0
    assert found["loader_and_evaluator"] > 0
    assert found["bytes"] < 200e6


def test_costs_and_memory_over_the_number_of_images():
    def measure(count):
        return {"loader": 0.1 * count, "loader_and_evaluator": 0.2 * count**2, "bytes": 5e6 + 300 * count}

    found = measure_image_counts(measure, counts=(10, 100, 1000))
    assert [row["exponent"] for row in found["costs"]] == pytest.approx([1, 2])
    assert found["costs"][0]["processor_seconds"] == {"10": 1.0, "100": 10.0, "1000": 100.0}
    assert found["bytes_per_image"] == pytest.approx(300)
