"""What exporters and file managers make: read as it is plainly meant, or named with file, entry, value and fix."""

import json
import unicodedata
from pathlib import Path

import pytest
from odd_data import SIZE, SPLITS, checked, read, trains, write_image
from PIL import Image

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError
from sat_peft.report.data_check import data_check_text

BOX = [68, 4, 40, 26]
CORNERS = [68, 4, 108, 30]


def coco(root: Path, **changes) -> Path:
    """Four images a split, one object each, of two classes; `changes` are functions of the content."""
    for index, split in enumerate(SPLITS):
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 120, "height": 80} for n in range(1, 5)]
        annotations = [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": list(BOX), "iscrowd": 0} for n in range(1, 5)
        ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        for number in range(1, 5):
            write_image(root / split / f"{number}.jpg", 4 * index + number)
        for name, change in changes.items():
            content[name] = change(content[name])
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def each(**fields):
    """Changes fields of every entry; a function gets the old value."""
    return lambda entries: [
        entry | {key: value(entry.get(key)) if callable(value) else value for key, value in fields.items()}
        for entry in entries
    ]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"annotations": each(category_id=str)}, "numbers written as text"),
        ({"annotations": each(category_id=float)}, "numbers written as text"),
        ({"annotations": each(image_id=str)}, "numbers written as text"),
        ({"annotations": each(bbox=lambda box: [str(value) for value in box])}, "numbers written as text"),
        ({"categories": each(id=str)}, None),
        ({"images": each(id=lambda number: f"{number}.0")}, None),
        ({"annotations": each(iscrowd="0")}, None),
        ({"annotations": each(iscrowd=False)}, None),
        ({"annotations": each(iscrowd="false")}, None),
        ({"annotations": each(iscrowd=0.0)}, None),
        ({"images": each(file_name=lambda name: f"images/{name}")}, "folders that are written before"),
        ({"images": each(file_name=lambda name: f"images\\{name}")}, "folders that are written before"),
        ({"images": each(file_name=lambda name: f"C:\\data\\images\\{name}")}, "folders that are written before"),
        ({"images": each(file_name=lambda name: f"/home/me/{name}")}, "folders that are written before"),
        ({"images": each(file_name=lambda name: f"./{name}")}, None),
    ],
)
def test_what_coco_exporters_plainly_mean_is_taken_and_said(tmp_path, change, remark):
    root = coco(tmp_path, **change)
    boxes, lines = read(root, "coco")
    assert boxes == [[CORNERS]] * 4
    assert [remark in line for line in lines] == ([True] if remark else [])
    assert load_source("coco", "train", root=root)["image_id"][:] == [f"train/{number}.jpg" for number in range(1, 5)]
    assert checked(root, "coco").ok
    assert trains(root, "coco")


@pytest.mark.parametrize("flag", [1, True, "1", "true", "1.0", 1.0])
def test_crowds_are_left_out_and_counted_by_the_check(tmp_path, flag):
    root = coco(tmp_path, annotations=lambda found: [found[0] | {"iscrowd": flag}, *found[1:]])
    text = data_check_text(checked(root, "coco"))
    assert "left out: 1 train crowds (--keep-crowd keeps them)" in text
    assert "left out: 1 train images without an object" in text


def shares(box: list) -> list:
    return [box[0] / 120, box[1] / 80, box[2] / 120, box[3] / 80]


def test_shares_where_pixels_belong_stop_the_check_and_training_with_entry_value_and_fix(tmp_path):
    root = coco(tmp_path, annotations=each(bbox=shares))
    found = checked(root, "coco")
    text = data_check_text(found)
    assert not found.ok
    assert "train.json, images[0]: the box [0.5667, 0.05, 0.3333, 0.325] lies in the first pixel" in text
    assert "multiply x and width by the image's width" in text
    assert "All of them have the same mistake" in text
    assert text.endswith("Training may not start yet.")
    assert not trains(root, "coco")
    with pytest.raises(UsageError, match=r"0 classes.*\n.*images\[0\]: the box .*\n(.*\n)*.*the same mistake"):
        load_source("coco", "train", root=root, problems=Problems(skip=True))


def test_box_without_an_area_is_named_by_its_annotation_and_costs_no_other(tmp_path):
    extra = {"id": 99, "image_id": 1, "category_id": 1, "bbox": [5, 5, 3.2, 0.0]}
    root = coco(tmp_path, annotations=lambda found: [*found, extra])
    with pytest.raises(UsageError, match=r"train\.json, annotation 99 of '1\.jpg': the xywh box \[5, 5, 3\.2, 0\.0\]"):
        read(root, "coco")
    problems = Problems(skip=True)
    assert load_source("coco", "train", root=root, problems=problems)["boxes"][:] == [[CORNERS]] * 4
    assert problems.count == 1


def test_image_outside_of_the_data_is_no_image_of_it(tmp_path):
    outside = write_image(tmp_path / "elsewhere/9.jpg")
    root = coco(tmp_path / "data", images=each(file_name=lambda name: str(outside)))
    with pytest.raises(UsageError, match=r"images\[0\]: the image '.*9\.jpg' lies outside of .*Give a path relative"):
        read(root, "coco")


def test_size_that_the_annotation_tells_is_compared_and_no_mistake(tmp_path):
    root = coco(tmp_path, images=lambda found: [found[0] | {"width": 240}, found[1] | {"width": 0}, *found[2:]])
    found = checked(root, "coco")
    assert found.ok
    (finding,) = found.findings
    assert (finding.kind, finding.count) == ("size", 2)
    assert finding.listed[0] == "train: train/1.jpg: 240 x 80 in the annotation, 120 x 80 in the file"


def voc(root: Path, *, text: str = "", encoding: str = "utf-8", declared: str | None = None, **values) -> Path:
    fields = {"name": "{name}", "difficult": "0", "xmin": "69", "size": "<width>120</width><height>80</height>"}
    fields |= values
    for split in SPLITS:
        for number in range(4):
            write_image(root / split / f"{number}.jpg", number)
            name = fields["name"].format(name="cat" if number % 2 else "dog")
            xml = (
                f"<?xml version='1.0' encoding='{declared or encoding}'?><annotation><size>{fields['size']}</size>"
                f"<object><name>{name}</name><difficult>{fields['difficult']}</difficult><bndbox>"
                f"<xmin>{fields['xmin']}</xmin><ymin>5</ymin><xmax>108</xmax><ymax>30</ymax></bndbox></object>"
                f"{text}</annotation>"
            )
            (root / split / f"{number}.xml").write_bytes(xml.encode(encoding))
    return root


@pytest.mark.parametrize("value", ["0", "false", "False", "0.0", "no", "", "Unspecified"])
def test_no_is_no_however_it_is_written(tmp_path, value):
    assert read(voc(tmp_path, difficult=value), "voc") == ([[CORNERS]] * 4, [])


def test_difficult_objects_are_counted_by_the_check(tmp_path):
    hard = "<object><name>cat</name><difficult>true</difficult></object>"
    assert "left out: 4 train difficult objects" in data_check_text(checked(voc(tmp_path, text=hard), "voc"))


@pytest.mark.parametrize(
    ("encoding", "declared", "names"),
    [
        ("gb2312", "gb2312", ["狗", "猫"]),
        ("gbk", "GBK", ["狗", "猫"]),
        ("cp932", "Shift_JIS", ["犬", "猫"]),
        ("cp949", "euc-kr", ["개", "고양이"]),
        ("big5", "Big5", ["狗", "貓"]),
        ("utf-16", "utf-16", ["狗", "猫"]),
        ("utf-8-sig", "utf-8", ["狗", "猫"]),
        ("utf-8", "utf-16", ["狗", "猫"]),
        ("cp1251", "windows-1251", ["кот", "пёс"]),
    ],
)
def test_names_in_every_encoding_that_is_declared(tmp_path, encoding, declared, names):
    root = voc(tmp_path, encoding=encoding, declared=declared, name="{name}")
    for file in root.rglob("*.xml"):
        text = file.read_bytes().decode(encoding).replace("cat", names[0]).replace("dog", names[1])
        file.write_bytes(text.encode(encoding))
    rows = load_source("voc", "train", root=root)
    assert rows.features["label"].names == sorted(names)
    assert rows["boxes"][:] == [[CORNERS]] * 4


@pytest.mark.parametrize(
    ("encoding", "declared", "words"),
    [
        ("utf-8", "klingon", r"0\.xml: it declares the encoding 'klingon', which is unknown\. Save it as UTF-8"),
        ("utf-8", "base64", "declares the encoding 'base64', which is unknown"),
        ("gbk", "utf-8", r"0\.xml: it is no XML .*not well-formed"),
    ],
)
def test_encoding_that_cannot_be_read_is_a_bad_entry(tmp_path, encoding, declared, words):
    root = voc(tmp_path, encoding=encoding, declared=declared, name="狗{name}")
    with pytest.raises(UsageError, match=words):
        read(root, "voc")
    assert not checked(root, "voc").ok


def test_decimal_comma_is_a_point(tmp_path):
    boxes, lines = read(voc(tmp_path, xmin="69,25"), "voc")
    assert boxes == [[[68.25, 4, 108, 30]]] * 4
    assert lines == ["note: 4 train coordinates with a decimal comma, read as a point"]


def test_size_in_the_xml_is_compared(tmp_path):
    root = voc(tmp_path, size="<width>240</width><height>160</height>")
    kinds = {finding.kind: finding for finding in checked(root, "voc").findings}
    assert (kinds["size"].count, kinds["size"].stops) == (8, False)


def yolo(root: Path, lines=("0 .5 .5 .25 .5", "1 .5 .5 .25 .5"), names: str = "[cat, dog]", suffix=".jpg", **options):
    for split in SPLITS:
        for number in range(4):
            write_image(root / "images" / split / f"{number}{suffix}", number, **options)
            label = root / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(lines[number % 2] + "\n")
    (root / "data.yaml").write_text(f"names: {names}\ntrain: images/train\ntest: images/test\n")
    return root


YOLO_BOX = [[[45, 20, 75, 60]]] * 4


@pytest.mark.parametrize(
    ("lines", "names", "classes", "remark"),
    [
        (("0 .5 .5 .25 .5", "1 .5 .5 .25 .5"), "[yes, no]", ["yes", "no"], None),
        (("0 .5 .5 .25 .5", "1 .5 .5 .25 .5"), "{0: on, 1: off}", ["on", "off"], None),
        (("0 .5 .5 .25 .5", "1 .5 .5 .25 .5"), "[1.0, 2021-13-45]", ["1.0", "2021-13-45"], None),
        (("0,.5,.5,.25,.5", "1,.5,.5,.25,.5"), "[cat, dog]", ["cat", "dog"], "lines with commas"),
        (("0;.5;.5;.25;.5", "1;.5;.5;.25;.5"), "[cat, dog]", ["cat", "dog"], "lines with commas"),
        (("0 0,5 0,5 0,25 0,5", "1 0,5 0,5 0,25 0,5"), "[cat, dog]", ["cat", "dog"], "lines with commas"),
        (("0.0 .5 .5 .25 .5", "1.0 .5 .5 .25 .5"), "[cat, dog]", ["cat", "dog"], None),
        (("cat .5 .5 .25 .5", "dog .5 .5 .25 .5"), "[cat, dog]", ["cat", "dog"], None),
        (("1 .5 .5 .25 .5", "2 .5 .5 .25 .5"), "[cat, dog]", ["cat", "dog"], "numbering of the classes that is +1"),
        (("0 .5 .5 .25 .5", "1 .5 .5 .25 .5"), "{1: cat, 2: dog}", ["cat", "dog"], "numbering of the classes"),
        (("1 .5 .5 .25 .5", "2 .5 .5 .25 .5"), "{1: cat, 2: dog}", ["cat", "dog"], None),
    ],
)
def test_what_yolo_exporters_plainly_mean_is_taken_and_said(tmp_path, lines, names, classes, remark):
    root = yolo(tmp_path, lines, names)
    rows = load_source("yolo", "train", root=root)
    assert rows.features["label"].names == classes
    assert rows["label"][:] == [0, 1, 0, 1]
    boxes, said = read(root, "yolo")
    assert boxes == YOLO_BOX
    assert [remark in line for line in said] == ([True] if remark else [])
    assert checked(root, "yolo").splits.keys() == {"train", "test"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("0 .5 .5 .25 .5 .93", "1 .5 .5 .25 .5 .9"), r"0\.txt, line 1: .* got 6 numbers: .*Remove the sixth number"),
        (("0 60 40 30 40", "1 60 40 30 40"), r"0\.txt: the box \[60\.0, .* its numbers seem to be pixels.*Divide x"),
        (("0 .9 .5 .5 .5", "1 .9 .5 .5 .5"), r"0\.txt: the box \[0\.65, .* leaves its image of 120 x 80.*Shares are"),
    ],
)
def test_lines_of_another_meaning_are_named_with_value_and_fix(tmp_path, lines, words):
    root = yolo(tmp_path, lines)
    with pytest.raises(UsageError, match=words):
        read(root, "yolo")
    assert not checked(root, "yolo").ok
    assert not trains(root, "yolo")
    assert not trains(root, "yolo", skip=True)


def test_image_without_a_label_file_has_no_object(tmp_path):
    root = yolo(tmp_path)
    (root / "labels/train/3.txt").unlink()
    boxes, lines = read(root, "yolo")
    assert boxes == YOLO_BOX[:3]
    assert "note: 1 train images without a label file, taken as images without an object" in lines


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_shares_are_of_the_upright_image_in_every_container(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = yolo(tmp_path, suffix=suffix, exif=exif.tobytes())
    width, height = SIZE[::-1] if orientation > 4 else SIZE
    corners = [0.375 * width, 0.25 * height, 0.625 * width, 0.75 * height]
    assert read(root, "yolo")[0] == [[corners]] * 4
    found = checked(root, "yolo")
    assert found.splits["train"].size.tolist() == [[width, height]] * 4
    assert found.splits["train"].turned == (4 if orientation > 1 else 0)


def test_file_names_in_another_encoding_are_found(tmp_path):
    root = coco(tmp_path, images=lambda found: [found[0] | {"file_name": "é.jpg"}, *found[1:]])
    for split in SPLITS:
        (root / split / "1.jpg").rename(root / split / unicodedata.normalize("NFD", "é.jpg"))
    assert len(read(root, "coco")[0]) == 4
