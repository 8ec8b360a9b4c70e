"""Tables for the terminal."""

from sat_peft.report.tables import method_table, parameter_table
from sat_peft.tuner.parameters import ParameterCount


def test_parameter_table():
    components = {"spatial token": 64, "head": 1936}
    frozen = {"spatial token": 0, "block 0": 1_000_000, "head": 0}
    count = ParameterCount(components, trainable=2000, total=1_002_000, frozen=frozen, loaded=1_002_000)
    assert parameter_table(count) == (
        "spatial token     64\nhead           1,936\ntrainable      2,000  (0.20 % of 1,002,000)"
    )


def test_method_table_aligns_methods_and_shows_a_dash_for_what_was_not_measured():
    table = method_table(
        {
            "SAT": {"gt_known": 98.45, "top1_loc": 80.96, "top5_loc": 100.0, "top1_cls": 0.0},
            "centre box": {"gt_known": None, "top1_loc": None, "top1_cls": 7.25},
        }
    )
    header, sat, centre = table.splitlines()
    assert header.split() == ["GT-known", "Loc", "Top-1", "Loc", "Top-5", "Loc", "Top-1", "Cls"]
    assert sat.split() == ["SAT", "98.5", "81.0", "100.0", "0.0"]
    assert centre.split() == ["centre", "box", "–", "–", "–", "7.2"]
    assert len({len(line) for line in (header, sat, centre)}) == 1
