"""What exporters and file managers make: read as it is plainly meant, or named with file, entry, value and fix."""

import csv
import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, TiffImagePlugin

from sat_peft.data.check import check_data
from sat_peft.data.loaders import ImageRows
from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError
from sat_peft.report.data_check import data_check_text

SIZE = (120, 80)
BOX = [68, 4, 40, 26]
CORNERS = [68, 4, 108, 30]
SPLITS = ("train", "test")


def write_image(file: Path, number: int = 0, size=SIZE, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 20 % 256, 90, 30)).save(file, **options)
    return file


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


def folders(root: Path, splits=SPLITS, classes=("cat", "dog")) -> Path:
    number = 0
    for split in splits:
        for name in classes:
            for index in range(3):
                number += 1
                write_image(root / split / name / f"{index}.jpg", number)
    return root


ROWS = {f"{name}/{index}.jpg": [1 + index, 2, 10, 5] for name in ("cat", "dog") for index in range(3)}
EXPECTED = [[[1 + index, 2, 11 + index, 7]] for _ in range(2) for index in range(3)]


def write_rows(file: Path, rows: list[dict]) -> None:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows([{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows])
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("place", ["root", "split", "split named again"])
@pytest.mark.parametrize(
    "form",
    [
        lambda box: {"objects": {"bbox": [box]}},
        lambda box: {"objects": {"boxes": [box]}},
        lambda box: {"objects": {"bboxes": [box]}},
        lambda box: {"bbox": box},
        lambda box: {"bboxes": [box]},
        lambda box: {"objects": [{"bbox": box, "category": "cat"}]},
    ],
)
def test_boxes_of_metadata_are_read_wherever_they_are(tmp_path, suffix, place, form):
    root = folders(tmp_path)
    if place == "root":
        rows = [{"file_name": f"{split}/{name}", **form(box)} for split in SPLITS for name, box in ROWS.items()]
        write_rows(root / f"metadata.{suffix}", rows)
    else:
        for split in SPLITS:
            before = f"{split}/" if place == "split named again" else ""
            rows = [{"file_name": before + name, **form(box)} for name, box in ROWS.items()]
            write_rows(root / split / f"metadata.{suffix}", rows)
    for split in SPLITS:
        assert load_source(str(root), split)["boxes"][:] == EXPECTED
    assert checked(root, "folder").splits["test"].num_boxes.tolist() == [1] * 6


def test_column_of_boxes_that_is_not_read_is_named(tmp_path):
    root = folders(tmp_path)
    write_rows(root / "train/metadata.jsonl", [{"file_name": "cat/0.jpg", "xyxy_boxes": [[1, 2, 3, 4]]}])
    assert "'xyxy_boxes', which is not read" in read(root, "folder")[1][0]


def test_shares_in_metadata_are_named_by_their_row(tmp_path):
    root = folders(tmp_path)
    write_rows(root / "train/metadata.jsonl", [{"file_name": "cat/0.jpg", "bbox": [0.1, 0.1, 0.5, 0.5]}])
    with pytest.raises(UsageError, match=r"metadata\.jsonl, line 1 \(train/cat/0\.jpg\): .*from 0 to 1\. Write boxes"):
        read(root, "folder")


def test_what_systems_leave_is_neither_class_nor_image(tmp_path):
    root = folders(tmp_path)
    write_image(root / "train/cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg")
    write_image(root / "train/__MACOSX/cat/0.jpg")
    write_image(root / "__MACOSX/train/cat/._0.jpg")
    rows = load_source(str(root), "train")
    assert rows.features["label"].names == ["cat", "dog"]
    assert len(rows) == 6
    assert "left out: 1 folders '@eaDir'" in data_check_text(checked(root, "folder"))


def test_other_files_are_counted_by_suffix(tmp_path):
    root = folders(tmp_path)
    for name in ("a.jfif", "b.jpe", "c.JFIF"):
        write_image(root / "train/cat" / name, format="JPEG")
    write_image(root / "train/cat/d.avif")
    for name in ("e.heic", "f.jpg_", "g.JPEG~", "h.jpg_", "Thumbs.db"):
        (root / "train/cat" / name).write_bytes(b"x")
    write_image(root / "train/stray.jpg")
    boxes, lines = read(root, "folder")
    assert len(boxes) == 10
    assert "left out: 2 files ending in '.jpg_'" in lines
    assert "left out: 1 files ending in '.jpeg~'" in lines
    assert any("'.heic', which `pip install pillow-heif` reads" in line for line in lines)
    assert any("1 train images in no class folder" in line for line in lines)
    assert not any(".db" in line for line in lines)


def test_one_name_in_two_encodings_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    folders(tmp_path, ["train"], [composed, "dog"])
    folders(tmp_path, ["test"], [decomposed, "dog"])
    found = checked(tmp_path, "folder")
    assert found.class_names == [composed, "dog"]
    assert found.splits["test"].class_counts.tolist() == [3, 3]


def test_file_names_in_another_encoding_are_found(tmp_path):
    root = coco(tmp_path, images=lambda found: [found[0] | {"file_name": "é.jpg"}, *found[1:]])
    for split in SPLITS:
        (root / split / "1.jpg").rename(root / split / unicodedata.normalize("NFD", "é.jpg"))
    assert len(read(root, "coco")[0]) == 4


def test_blank_at_the_end_of_a_class_is_shown(tmp_path):
    root = folders(folders(tmp_path), ["test"], ["cat "])
    with pytest.raises(UsageError, match="train lacks: 'cat '"):
        load_source(str(root), "test")


def test_odd_exif_block_is_no_matter(tmp_path):
    root = folders(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = TiffImagePlugin.IFDRational(72, 1)
    content = exif.tobytes()
    # XResolution (tag 0x011A) as a signed rational, type 10 instead of 5.
    order = "big" if b"MM" in content[:8] else "little"
    place = content.index((0x011A).to_bytes(2, order))
    odd = content[: place + 2] + (10).to_bytes(2, order) + content[place + 4 :]
    write_image(root / "train/cat/9.jpg", 77, exif=odd)
    found = checked(root, "folder")
    assert found.ok
    assert found.splits["train"].turned == 1
    assert trains(root, "folder")


def test_sixteen_bits_of_which_few_are_used_are_remarked(tmp_path):
    import numpy as np

    root = folders(tmp_path)
    values = np.linspace(0, 4095, 120 * 80).astype(np.uint16).reshape(80, 120)
    Image.fromarray(values).save(root / "train/cat/dark.png")
    (finding,) = checked(root, "folder").findings
    assert (finding.kind, finding.stops, finding.listed) == (
        "dark",
        False,
        ["train: train/cat/dark.png: 12 of 16 bits"],
    )


def test_file_that_only_another_program_could_open_is_no_image(tmp_path, monkeypatch):
    root = folders(tmp_path)
    (root / "train/cat/9.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    (finding,) = checked(root, "folder").findings
    assert "of no known image format" in finding.listed[0]
