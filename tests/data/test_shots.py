"""The few-shot draw: exact, nested, and the same everywhere."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from sat_peft.data.shots import sample_shots
from sat_peft.errors import UsageError

NAMES = ["cat", "cow", "dog"]


def pool(*sizes: int, names: list[str] = NAMES) -> Dataset:
    """A data set with `sizes[label]` images of every class."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    ids = [f"{names[label]}/{index:03d}" for label, size in enumerate(sizes) for index in range(size)]
    features = Features({"image_id": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image_id": ids, "label": labels}, features=features)


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_every_class_has_exactly_that_many_different_images(shots):
    drawn = sample_shots(pool(10, 30, 12), shots, seed=3)
    assert Counter(drawn["label"]) == {0: shots, 1: shots, 2: shots}
    assert len(set(drawn["image_id"])) == 3 * shots


def test_draw_is_the_same_whatever_the_order_of_the_rows():
    rows = pool(20, 20, 20)
    shuffled = rows.select(np.random.default_rng(1).permutation(len(rows)).tolist())
    assert sample_shots(rows, 4, seed=2)["image_id"][:] == sample_shots(shuffled, 4, seed=2)["image_id"][:]


def test_draw_is_the_committed_one():
    # Papers compare draws of one seed, so the draw must not change with numpy or with this code.
    assert sample_shots(pool(20, 20, 20), 2, seed=0)["image_id"][:] == [
        "cat/004",
        "cat/019",
        "cow/010",
        "cow/000",
        "dog/015",
        "dog/008",
    ]


def test_fewer_shots_are_among_more_shots():
    rows = pool(20, 20, 20)
    draws = [set(sample_shots(rows, shots, seed=5)["image_id"]) for shots in range(1, 20)]
    assert all(fewer < more for fewer, more in pairwise(draws))


def test_seeds_and_classes_draw_differently():
    rows = pool(50, 50, 50)
    first, second = (sample_shots(rows, 5, seed=seed)["image_id"][:] for seed in (0, 1))
    assert first != second
    numbers = [image_id.split("/")[1] for image_id in first]
    assert numbers[:5] != numbers[5:10]


def test_classes_with_too_few_images_are_listed_with_the_largest_number_that_works():
    with pytest.raises(UsageError, match=r"2 classes .* fewer than 4 .*: cat \(3\), dog \(2\)\. Use at most --shots 2"):
        sample_shots(pool(3, 9, 2), 4)


def test_long_list_of_short_classes_is_cut():
    names = [f"class{number}" for number in range(12)]
    with pytest.raises(UsageError, match=r"12 classes .*class7 \(1\) and 4 more"):
        sample_shots(pool(*[1] * 12, names=names), 2)


def test_empty_class_is_not_answered_with_no_shots_at_all():
    with pytest.raises(UsageError, match=r"cow \(0\)\. Add images or remove the empty classes\."):
        sample_shots(pool(3, 0, 3), 1)


@pytest.mark.parametrize(("arguments", "words"), [({"shots": 0}, "at least 1, got 0"), ({"seed": -1}, "from 0 to 2")])
def test_numbers_out_of_range_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        sample_shots(pool(3, 3, 3), **({"shots": 1} | arguments))
