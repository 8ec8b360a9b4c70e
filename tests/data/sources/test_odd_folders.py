"""What file managers, cameras and `datasets` leave in class folders: read, or counted and named."""

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_data import SPLITS, checked, read, trains, write_image
from PIL import Image, TiffImagePlugin

from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError
from sat_peft.report.data_check import data_check_text


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
