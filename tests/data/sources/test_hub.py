"""Data sets that `datasets` reads, saved, as Parquet and as JSON lines: columns, formats of boxes, and damage."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from official_folders import write_image
from PIL import Image as PilImage

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

BOX = List(Value("float32"), length=4)
IMAGE = PilImage.new("RGB", (40, 30))


def save(root: Path, features: dict, rows: dict[str, list[dict]]) -> Path:
    """Saves splits; every row gets an image of 40 x 30 pixels."""
    features = Features({"image": Image()} | features)
    splits = {
        split: Dataset.from_list([{"image": IMAGE} | row for row in members], features=features)
        for split, members in rows.items()
    }
    DatasetDict(splits).save_to_disk(root)
    return root


CAT_DOG = {"label": ClassLabel(names=["dog", "cat"])}


@pytest.fixture
def root(tmp_path):
    train = [{"label": 1, "bbox": [1, 2, 3, 4]}, {"label": 0, "bbox": None}]
    test = [{"label": 0, "bbox": [5, 6, 7, 9]}]
    return save(tmp_path / "data", CAT_DOG | {"bbox": BOX}, {"train": train, "test": test})


def read(root: Path, split: str = "train", **options):
    return load_source("hub", split, root=root, **options)


def test_columns_are_guessed_and_the_format_of_boxes_is_given(root):
    train = read(root, box_format="xyxy")
    assert train.features["label"].names == ["dog", "cat"]
    assert (train["label"][:], train["boxes"][:]) == ([1, 0], [[[1, 2, 3, 4]], []])
    assert train["image_id"][:] == ["train/00000000", "train/00000001"]
    assert train[0]["image"].size == (40, 30)
    assert read(root, "test", box_format="xywh")["boxes"][:] == [[[5, 6, 12, 15]]]
    assert read(root, "validation", box_format="xywh") is None


def test_format_of_boxes_is_never_guessed(root):
    with pytest.raises(UsageError, match=r"'bbox' holds boxes.*--box-format: xyxy, xywh.*--box-column none"):
        read(root)
    assert read(root, box_column="none")["boxes"][:] == [[], []]
    with pytest.raises(UsageError, match=r"unknown box format 'xyhw'\. Did you mean"):
        read(root, box_format="xyhw")


def test_images_stay_encoded_where_the_boxes_need_no_size(tmp_path):
    """Nothing is decoded before training, so a damaged image is no matter yet."""
    row = {"image": {"bytes": b"no image", "path": None}, "label": 0, "bbox": [0.25, 0.25, 1.5, 1.5]}
    rows = [row, row | {"label": 1}]
    root = save(tmp_path / "data", CAT_DOG | {"bbox": BOX}, {"train": rows})
    assert len(read(root, box_format="xyxy")) == 2
    with pytest.raises(UsageError, match=r"train, row 0: .*cannot be read"):
        read(root, box_format="yolo")


def test_shares_become_pixels_of_each_image(tmp_path):
    rows = [{"label": 0, "bbox": [0.25, 0.5, 0.5, 1]}, {"label": 1, "bbox": [0, 0, 1, 1]}]
    root = save(tmp_path / "data", CAT_DOG | {"bbox": BOX}, {"train": rows})
    assert read(root, box_format="relative")["boxes"][:] == [[[10, 15, 20, 30]], [[0, 0, 40, 30]]]


def test_objects_name_the_class_where_the_image_does_not(tmp_path):
    objects = {"bbox": List(BOX), "category": List(ClassLabel(names=["dog", "cat"]))}
    rows = [
        {"objects": {"bbox": [[0, 0, 2, 2], [1, 1, 9, 9]], "category": [0, 1]}},
        {"objects": {"bbox": [], "category": []}},
        {"objects": {"bbox": [[0, 0, 5, 5]], "category": [0]}},
    ]
    root = save(tmp_path / "data", {"objects": objects}, {"train": rows})
    problems = Problems()
    train = read(root, box_format="xywh", problems=problems)
    assert (train["label"][:], train["boxes"][:]) == ([1, 0], [[[1, 1, 10, 10]], [[0, 0, 5, 5]]])
    assert problems.lines() == ["left out: 1 train images without an object to name their class"]
    assert read(root, box_format="xywh", label_from="first")["label"][:] == [0, 0]
    with pytest.raises(UsageError, match="row 0: the image has objects of several classes: cat, dog"):
        read(root, box_format="xywh", label_from="only")


def test_list_of_structures_is_read_as_a_structure_of_lists(tmp_path):
    objects = List({"bbox": BOX, "category": Value("string")})
    rows = [
        {"objects": [{"bbox": [0, 0, 2, 2], "category": "dog"}]},
        {"objects": [{"bbox": [0, 0, 3, 3], "category": "cat"}]},
    ]
    root = save(tmp_path / "data", {"objects": objects}, {"train": rows})
    train = read(root, box_format="xywh")
    assert train.features["label"].names == ["cat", "dog"]
    assert (train["label"][:], train["boxes"][:]) == ([1, 0], [[[0, 0, 2, 2]], [[0, 0, 3, 3]]])


@pytest.mark.parametrize(("feature", "values"), [(Value("string"), ["b", "a"]), (Value("int32"), [7, 3])])
def test_classes_without_names_are_the_sorted_values_of_the_train_split(tmp_path, feature, values):
    rows = {"train": [{"label": value} for value in values], "test": [{"label": values[0]}]}
    root = save(tmp_path / "data", {"label": feature}, rows)
    assert read(root).features["label"].names == [str(value) for value in sorted(values)]
    assert read(root, "test")["label"][:] == [1]


def test_class_that_train_lacks_and_missing_label_are_named(tmp_path):
    train = [{"label": "a"}, {"label": "b"}]
    root = save(tmp_path / "data", {"label": Value("string")}, {"train": train, "test": [{"label": "c"}]})
    with pytest.raises(UsageError, match=r"test, row 0: the label 'c' is none of the 2 classes of the train split"):
        read(root, "test")
    root = save(tmp_path / "other", CAT_DOG, {"train": [{"label": 0}, {"label": -1}, {"label": 1}]})
    with pytest.raises(UsageError, match=r"train, row 1: the label -1 is none"):
        read(root)
    problems = Problems(skip=True)
    assert read(root, problems=problems)["image_id"][:] == ["train/00000000", "train/00000002"]
    assert problems.count == 1


def test_bad_images_and_boxes_are_skipped_and_counted(tmp_path):
    rows = [
        {"label": 0, "bbox": [0, 0, 40, 30]},
        {"label": 0, "bbox": [0, 0, 90, 30]},
        {"label": 0, "bbox": [4, 4, 4, 9]},
        {"label": 1, "bbox": [0, 0, 9, 9], "image": {"bytes": b"no image", "path": None}},
        {"label": 1, "bbox": [0, 0, 9, 9], "image": None},
        {"label": 1, "bbox": [0, 0, 9, 9]},
    ]
    root = save(tmp_path / "data", CAT_DOG | {"bbox": BOX}, {"train": rows})
    problems = Problems(skip=True)
    train = read(root, box_format="xyxy", problems=problems)
    assert train["image_id"][:] == ["train/00000000", "train/00000005"]
    assert train["boxes"][:] == [[[0, 0, 40, 30]], [[0, 0, 9, 9]]]
    assert [problem.where.rpartition(" ")[2] for problem in problems.listed] == ["1", "2", "3", "4"]


def test_masks_come_along(tmp_path):
    mask = PilImage.new("L", (40, 30), 255)
    rows = [{"label": 0, "segmentation": mask}, {"label": 1, "segmentation": mask}]
    root = save(tmp_path / "data", CAT_DOG | {"segmentation": Image()}, {"train": rows})
    with pytest.raises(UsageError, match="several columns could hold the images: image, segmentation"):
        read(root)
    train = read(root, mask_column="segmentation")
    assert train[0]["mask"].getextrema() == (255, 255)
    assert "mask" not in read(root, image_column="image").column_names


@pytest.mark.parametrize(
    ("features", "options", "words"),
    [
        ({"name": Value("string")}, {}, r"no column tells the labels\. Name it with --label-column; .* image, name"),
        (CAT_DOG, {"label_column": "lable"}, r"unknown column of .* 'lable'\. Did you mean 'label'"),
        (CAT_DOG, {"image_column": "label"}, "'label' holds ClassLabel.*neither images nor paths"),
        (CAT_DOG, {"mask_column": "label"}, "no masks as images"),
        (CAT_DOG | {"score": Value("float32")}, {"label_column": "score"}, "'score' holds .* no classes"),
        (
            {"fine": ClassLabel(names=["a", "b"]), "coarse": ClassLabel(names=["c", "d"])},
            {},
            "several columns could hold the labels: fine, coarse",
        ),
        (CAT_DOG | {"bbox": BOX, "boxes": BOX}, {}, "several columns could hold the boxes: bbox, boxes"),
        ({"tags": List(Value("string"))}, {"label_column": "tags"}, "a class for every object, which needs"),
    ],
)
def test_columns_that_cannot_be_are_named(tmp_path, features, options, words):
    empty = dict.fromkeys(features)
    root = save(tmp_path / "data", features, {"train": [empty, empty]})
    with pytest.raises(UsageError, match=words):
        read(root, **options)


def test_other_names_of_splits_are_given_and_usual_ones_known(tmp_path):
    rows = [{"label": 0}, {"label": 1}]
    root = save(tmp_path / "data", CAT_DOG, {"learn": rows, "valid": rows[:1], "exam": rows[1:]})
    with pytest.raises(UsageError, match=r"no split 'train', but learn, valid, exam\. Name it with --train-split"):
        read(root)
    assert len(read(root, train_split="learn")) == 2
    assert read(root, "validation", train_split="learn")["label"][:] == [0]
    assert read(root, "test", train_split="learn", test_split="exam")["label"][:] == [1]
    with pytest.raises(UsageError, match=r"unknown split of .* 'exams'\. Did you mean 'exam'"):
        read(root, "test", train_split="learn", test_split="exams")


def test_one_saved_data_set_is_the_train_split(tmp_path):
    rows = [{"image": IMAGE, "label": 0}, {"image": IMAGE, "label": 1}]
    Dataset.from_list(rows, features=Features({"image": Image()} | CAT_DOG)).save_to_disk(tmp_path / "data")
    assert len(load_source(str(tmp_path / "data"), "train")) == 2
    assert load_source(str(tmp_path / "data"), "test") is None


def test_json_lines_name_images_below_their_folder(tmp_path):
    rows = [{"file": "images/1.png", "label": "a"}, {"file": "images/2.png", "label": "b"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_image(tmp_path / "images/1.png")
    with pytest.raises(UsageError, match="row 1: the image is missing"):
        read(tmp_path, image_column="file")
    write_image(tmp_path / "images/2.png", (50, 20))
    train = read(tmp_path, image_column="file")
    assert [image.size for image in train["image"]] == [(40, 30), (50, 20)]


def test_data_set_of_the_hub_comes_from_its_cache_without_network(tmp_path, monkeypatch, root):
    """The cache is what a download leaves; the tests are offline."""
    parquet = tmp_path / "files"
    parquet.mkdir()
    for split, rows in DatasetDict.load_from_disk(root).items():
        rows.to_parquet(parquet / f"{split}.parquet")
    cache = tmp_path / "cache"
    files = {split: str(parquet / f"{split}.parquet") for split in ("train", "test")}
    load_dataset("parquet", data_files=files, cache_dir=str(cache))
    built = next(path.parent for path in cache.glob("parquet/*/*/*/dataset_info.json"))
    target = cache / "someone___birds" / "default" / "0.0.0" / built.name
    target.parent.mkdir(parents=True)
    built.rename(target)
    for file in target.glob("parquet-*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet-", "birds-")))
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "birds", "config_name": "default"}))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    train = load_source("hub:someone/birds", "train", box_format="xyxy")
    assert (train["label"][:], train["boxes"][:]) == ([1, 0], [[[1, 2, 3, 4]], []])
    with pytest.raises(UsageError, match="'someone/fish' cannot be loaded"):
        load_source("hub:someone/fish", "train")


def test_hub_id_has_no_root(tmp_path):
    with pytest.raises(UsageError, match=r"'hub:a/b' names its data; leave out --data-root"):
        load_source("hub:a/b", "train", root=tmp_path)
    with pytest.raises(UsageError, match="nowhere' does not exist"):
        load_source("hub", "train", root=tmp_path / "nowhere")
