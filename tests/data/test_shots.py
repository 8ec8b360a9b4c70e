"""The few-shot draw: exact, nested, and the same everywhere."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from sat_peft.data.shots import choose_shots, sample_shots, select_images, split_share, without_images
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


def test_saved_list_is_the_choice_in_its_order(tmp_path):
    rows, file = pool(4, 4, 4), tmp_path / "image_ids.json"
    saved = sample_shots(rows, 2, seed=7)["image_id"][:]
    file.write_text(json.dumps(saved))
    assert choose_shots(rows, 1, image_ids=file)["image_id"][:] == saved
    shuffled = rows.select([11, 3, 5, 0, 1, 2, 4, 6, 7, 8, 9, 10])
    assert choose_shots(shuffled, 1, image_ids=file)["image_id"][:] == saved
    assert choose_shots(rows, 2, seed=7)["image_id"][:] == saved


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["cat/000", "cow/000", "dog/009"]', r"names 1 of 3 images that the data does not have: 'dog/009'"),
        ('["cat/000", "cow/000", "cow/000"]', "names 'cow/000' twice"),
        ('["cat/000", "cat/001"]', "names no image of 2 classes: cow, dog"),
        ("[]", "names no images"),
        ('{"cat": 1}', "is no list of images"),
        ("[1, 2]", "is no list of images"),
        ("[", r"is no JSON .*image_ids\.json"),
    ],
)
def test_list_that_cannot_be_used_says_why(tmp_path, text, words):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UsageError, match=words):
        choose_shots(pool(2, 2, 2), 1, image_ids=tmp_path / "list.json")


def test_missing_list_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json: the file does not exist"):
        choose_shots(pool(2, 2, 2), 1, image_ids=tmp_path / "gone.json")


def test_selected_and_remaining_images_are_the_whole():
    rows = pool(3, 3, 3)
    chosen = ["dog/002", "cat/001"]
    assert select_images(rows, chosen)["image_id"][:] == chosen
    rest = without_images(rows, chosen)["image_id"][:]
    assert sorted(rest + chosen) == sorted(rows["image_id"])


@pytest.mark.parametrize(("size", "fraction", "share"), [(10, 0.2, 2), (10, 0.04, 1), (2, 0.9, 1), (1, 0.5, 0)])
def test_share_leaves_and_takes_at_least_one_image_of_a_class(size, fraction, share):
    rest, taken = split_share(pool(size, 4, 4), fraction, purpose="test")
    counts = Counter(taken["label"])
    assert counts[0] == share
    assert Counter(rest["label"])[0] == size - share


def test_shares_of_test_and_validation_are_other_draws():
    rows = pool(40, 40, 40)
    drawn = {purpose: split_share(rows, 0.5, purpose=purpose)[1]["image_id"][:] for purpose in ("test", "validation")}
    assert drawn["test"] != drawn["validation"]
    with pytest.raises(UsageError, match="no class has two images"):
        split_share(pool(1, 1, 1), 0.5, purpose="test")
