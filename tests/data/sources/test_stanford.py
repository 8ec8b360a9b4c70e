"""Stanford Dogs and Stanford Cars: .mat lists as published, boxes by eye."""

from pathlib import Path

import numpy as np
import pytest
from official_folders import annotation_xml, write_image, write_text
from scipy.io import savemat

from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError

DOGS = ("n02085620-Chihuahua/n02085620_10", "n02086240-Shih-Tzu/n02086240_7")


def cells(*values: str) -> np.ndarray:
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def write_dog_list(root: Path, split: str, files=tuple(f"{dog}.jpg" for dog in DOGS), labels=(1, 2)) -> None:
    savemat(root / f"{split}_list.mat", {"file_list": cells(*files), "labels": np.array(labels, np.uint8)[:, None]})


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    root = tmp_path / "dogs"
    for dog in DOGS:
        write_image(root / "Images" / f"{dog}.jpg")
        write_text(root / "Annotation" / dog, annotation_xml(("dog", 0, 2, 39, 20), ("dog", 1, 1, 5, 5)))
    for split in ("train", "test"):
        write_dog_list(root, split)
    return root


def test_dogs_by_mat_lists(dogs):
    test = load_source("stanford_dogs", "test", root=dogs)
    assert test["image_id"][:] == [f"{dog}.jpg" for dog in DOGS]
    assert test["label"][:] == [0, 1]
    assert test["boxes"][0] == [[0, 2, 39, 20], [1, 1, 5, 5]]
    assert test.features["label"].names == ["Chihuahua", "Shih-Tzu"]
    assert load_source("stanford_dogs", "validation", root=dogs) is None


def test_dogs_by_text_lists(dogs):
    for split in ("train", "test"):
        (dogs / f"{split}_list.mat").unlink()
        write_text(dogs / f"{split}_list.txt", *(f"{dog}.jpg;{label}\r" for label, dog in enumerate(DOGS)))
    assert load_source("stanford_dogs", "test", root=dogs)["label"][:] == [0, 1]
    write_text(dogs / "test_list.txt", f"{DOGS[0]}.jpg 0")
    with pytest.raises(UsageError, match=r"test_list\.txt, line 1: expected 2 columns with ';' between"):
        load_source("stanford_dogs", "test", root=dogs)
    (dogs / "test_list.txt").unlink()
    with pytest.raises(UsageError, match=r"neither test_list\.mat nor test_list\.txt"):
        load_source("stanford_dogs", "test", root=dogs)


def test_dogs_that_do_not_fit_are_named(dogs):
    (dogs / "Annotation" / DOGS[1]).unlink()
    with pytest.raises(UsageError, match=rf"Annotation/{DOGS[1]}: the file does not exist"):
        load_source("stanford_dogs", "test", root=dogs)
    write_dog_list(dogs, "test", labels=(1, 3))
    with pytest.raises(UsageError, match=r"test_list\.mat, entry 2: the training list has no class 2"):
        load_source("stanford_dogs", "test", root=dogs)
    write_dog_list(dogs, "test", labels=(1,))
    with pytest.raises(UsageError, match="has 2 files but 1 labels"):
        load_source("stanford_dogs", "test", root=dogs)
    write_dog_list(dogs, "train", labels=(1, 1))
    with pytest.raises(UsageError, match=r"entry 2: class 0 has the folder 'n02086240-Shih-Tzu', but .* before"):
        load_source("stanford_dogs", "test", root=dogs)
    write_dog_list(dogs, "train", labels=(1, 3))
    with pytest.raises(UsageError, match="the training list has no image of class 1"):
        load_source("stanford_dogs", "test", root=dogs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as a .mat file"),
        (b"hello " * 100, "cannot be read as a .mat file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(200), "cannot be read as a .mat file.*HDF"),
    ],
)
def test_file_that_is_no_mat_file_is_named(dogs, content, words):
    (dogs / "test_list.mat").write_bytes(content)
    with pytest.raises(UsageError, match=rf"test_list\.mat: it {words}"):
        load_source("stanford_dogs", "test", root=dogs)


def test_mat_file_of_another_content_is_named(dogs):
    savemat(dogs / "test_list.mat", {"file_list": cells("a.jpg")})
    with pytest.raises(UsageError, match=r"test_list\.mat: it has no variable labels"):
        load_source("stanford_dogs", "test", root=dogs)


def car_structs(*rows: dict) -> np.ndarray:
    structs = np.zeros((1, len(rows)), [(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        structs[0, index] = tuple(row.values())
    return structs


def car(box: tuple[int, ...], label: int, **fields) -> dict:
    corners = {f"bbox_{name}": np.uint16(value) for name, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)}
    return {**corners, "class": np.uint8(label), **fields}


CAR_NAMES = {"class_names": cells("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012").T}


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """The development kit; one image a split."""
    root = tmp_path / "cars"
    write_image(root / "cars_train/00001.jpg")
    write_image(root / "cars_test/00001.jpg")
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_meta.mat", CAR_NAMES)
    train = car_structs(car((1, 1, 40, 30), 2, fname="00001.jpg"))
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": train})
    test = car_structs(car((3, 4, 5, 6), 1, fname="00001.jpg"))
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": test})
    return root


def test_cars_of_the_development_kit_count_from_1_with_the_last_pixel(cars):
    train, test = (load_source("stanford_cars", split, root=cars) for split in ("train", "test"))
    assert (train["image_id"][:], train["label"][:]) == (["cars_train/00001.jpg"], [1])
    assert train["boxes"][:] == [[[0, 0, 40, 30]]]  # the whole image
    assert (test["label"][:], test["boxes"][:]) == ([0], [[[2, 3, 5, 6]]])
    assert train.features["label"].names == ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"]
    assert load_source("stanford_cars", "validation", root=cars) is None


def test_cars_of_one_file(tmp_path):
    paths = [f"car_ims/00000{number}.jpg" for number in (1, 2, 3)]
    for path in paths:
        write_image(tmp_path / path)
    rows = [car((1, 1, 9, 9), 1, test=np.uint8(index == 1), relative_im_path=path) for index, path in enumerate(paths)]
    savemat(tmp_path / "cars_annos.mat", {"annotations": car_structs(*rows), **CAR_NAMES})
    assert load_source("stanford_cars", "train", root=tmp_path)["image_id"][:] == [paths[0], paths[2]]
    assert load_source("stanford_cars", "test", root=tmp_path)["image_id"][:] == [paths[1]]


def test_test_annotations_may_lie_in_the_development_kit_and_are_asked_for(cars):
    file = cars / "cars_test_annos_withlabels.mat"
    file.rename(cars / "devkit" / file.name)
    assert len(load_source("stanford_cars", "test", root=cars)) == 1
    (cars / "devkit" / file.name).unlink()
    with pytest.raises(UsageError, match=r"have no cars_test_annos_withlabels\.mat, which is a download of its own"):
        load_source("stanford_cars", "test", root=cars)


def test_cars_that_do_not_fit_are_named(cars):
    file = cars / "devkit/cars_train_annos.mat"
    savemat(file, {"annotations": car_structs(car((1, 1, 9, 9), 3, fname="00001.jpg"))})
    with pytest.raises(UsageError, match=r"train_annos\.mat, entry 1: the class must be from 1 to 2, got 3"):
        load_source("stanford_cars", "train", root=cars)
    savemat(file, {"annotations": car_structs(car((1, 1, 9, 9), 1))})
    with pytest.raises(UsageError, match=r"train_annos\.mat: it has no field 'fname'; it has bbox_x1"):
        load_source("stanford_cars", "train", root=cars)
    savemat(file, {"annotations": car_structs(car((1, 1, 9, 9), 1, fname="2.jpg"))})
    with pytest.raises(UsageError, match=r"cars_train/2\.jpg: the file cannot be found"):
        load_source("stanford_cars", "train", root=cars)
    savemat(file, {"annotations": car_structs(car((1, 1, 90, 9), 1, fname="00001.jpg"))})
    with pytest.raises(UsageError, match=r"entry 1: the box .* leaves its image of 40 x 30"):
        load_source("stanford_cars", "train", root=cars)
    (cars / "devkit/cars_meta.mat").unlink()
    with pytest.raises(UsageError, match=r"cars_meta\.mat' does not exist\. Expected ROOT/cars_annos"):
        load_source("stanford_cars", "train", root=cars)
