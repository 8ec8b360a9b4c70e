"""The feature cache: right tokens, built once, never stale, and what happens when disk or processes fail."""

import json
import os
import pickle
import resource
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from processes import CONTEXT, run_processes
from tiny_cache import COUNT, VIEW_BYTES, Counting, create_model, create_source, write_images

from sat_peft import FrozenTokens
from sat_peft.data.feature_cache import build_feature_loader, open_feature_cache
from sat_peft.data.sampler import View
from sat_peft.errors import UsageError


@pytest.fixture
def dataset(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def caches(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.npy")}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob("*.part"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 5e-3)])
@pytest.mark.parametrize("augmentation", ["shift", "crop", "none"])
def test_holds_the_tokens_of_every_view(dataset, folder, dtype, tolerance, augmentation):
    model = create_model()
    source = create_source(dataset, model, augmentation=augmentation, dtype=dtype)
    rows = open_feature_cache(folder, source)
    assert len(rows) == COUNT
    assert rows.tokens.dtype == dtype
    assert rows.tokens.shape == (COUNT * 3, 17, 16)
    for place in range(len(source)):
        sample = rows[View(place // 3, place)]
        image = source.images[View(place // 3, place)]["image"]
        expected = model.base_model.frozen_tokens(image[None]).tokens[0]
        torch.testing.assert_close(sample["tokens"].float(), expected, rtol=tolerance, atol=tolerance)
        assert sample["label"] == (place // 3) % 2
        assert sample["index"] == place // 3


def test_views_of_an_image_and_of_neighbours_differ(dataset, folder):
    rows = open_feature_cache(folder, create_source(dataset, create_model(), views=4))
    tokens = rows.tokens.reshape(COUNT, 4, -1)
    assert all(len(np.unique(each, axis=0)) > 1 for each in tokens)


def test_is_built_once_and_then_spot_checked(dataset, folder, said):
    compute = Counting(create_model())
    model = compute.model
    first = open_feature_cache(folder, create_source(dataset, model, compute=compute))
    assert compute.images == COUNT * 3 + 1  # and one to know the shape
    assert len(said.messages) == 1
    assert "6 images x 3 views of 17 x 16" in said.messages[0]
    compute.images = 0
    second = open_feature_cache(folder, create_source(dataset, model, compute=compute))
    assert compute.images == 2
    assert len(said.messages) == 1
    assert first.path == second.path
    assert not leftovers(folder)


def test_record_names_what_the_tokens_depend_on(dataset, folder):
    path = open_feature_cache(folder, create_source(dataset, create_model())).path
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["rows"] == COUNT
    assert record["views"] == 3
    assert "RandomCrop" in record["transform"]
    assert record["backbone"] == create_model().base_model.frozen_fingerprint()


def test_an_image_changed_under_the_same_name_size_and_time_is_seen(dataset, folder):
    model = create_model()
    open_feature_cache(folder, create_source(dataset, model))
    path = Path(dataset.with_format("arrow")[3]["image"][0].as_py()["path"])
    before = path.stat()
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    source = create_source(dataset, model)
    rows = open_feature_cache(folder, source)
    assert len(caches(folder)) == 2
    expected = model.base_model.frozen_tokens(source.images[View(3, 10)]["image"][None]).tokens[0]
    torch.testing.assert_close(rows[View(3, 10)]["tokens"].float(), expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    "change", [{"views": 2}, {"augmentation": "crop"}, {"dtype": "float32"}, {"identity": {"backbone": "other"}}]
)
def test_other_settings_are_another_cache(dataset, folder, change):
    model = create_model()
    first = open_feature_cache(folder, create_source(dataset, model))
    second = open_feature_cache(folder, create_source(dataset, model, **change))
    assert first.path != second.path


def test_fingerprint_tells_what_the_frozen_blocks_compute_with():
    reference = create_model()
    fingerprint = reference.base_model.frozen_fingerprint()
    assert create_model().base_model.frozen_fingerprint() == fingerprint
    vit = reference.get_base_model()
    with torch.no_grad():
        vit.blocks[2].mlp.fc1.weight.add_(1)  # the spatial block, and what follows it
        vit.norm_pre.sat_token["default"].add_(1)
        assert reference.base_model.frozen_fingerprint() == fingerprint
        vit.blocks[1].mlp.fc1.weight[3, 5] += 1e-3
        assert reference.base_model.frozen_fingerprint() != fingerprint
    changed = create_model()
    changed.get_base_model().blocks[0].mlp.act = torch.nn.ReLU()
    assert changed.base_model.frozen_fingerprint() != fingerprint
    assert create_model(seed=1).base_model.frozen_fingerprint() != fingerprint


def truncate(path):
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1000)


def overwrite_header(path):
    with path.open("rb+") as file:
        file.write(b"nonsense")


def empty(path):
    path.write_bytes(b"")


def swap_content(path):
    tokens = np.load(path)
    np.save(path, tokens[::-1])


def drop_rows(path):
    np.save(path, np.load(path)[:4])


def pickled(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("damage", [truncate, overwrite_header, empty, swap_content, drop_rows, pickled])
def test_a_cache_that_cannot_be_trusted_is_built_anew(dataset, folder, damage, said):
    model = create_model()
    first = open_feature_cache(folder, create_source(dataset, model))
    expected = np.array(first.tokens)
    damage(first.path)
    said.clear()
    rows = open_feature_cache(folder, create_source(dataset, model))
    np.testing.assert_array_equal(rows.tokens, expected)
    assert "built anew" in said.messages[0]
    assert sum("built anew" in line for line in said.messages) == 1
    assert not leftovers(folder)


def test_damage_in_the_middle_is_seen_when_the_view_is_read(dataset, folder):
    source = create_source(dataset, create_model())
    rows = open_feature_cache(folder, source)
    with rows.path.open("r+b") as file:
        file.seek(-VIEW_BYTES * 5 - 7, os.SEEK_END)  # neither in the first view nor in the last
        file.write(b"\xff\x7f")  # NaN
    damaged = len(source) - 6
    again = open_feature_cache(folder, source)
    again[View(damaged // 3, damaged - 1)]
    with pytest.raises(UsageError, match=rf"{rows.path} is damaged. Remove it"):
        again[View(damaged // 3, damaged)]


def test_a_cache_of_earlier_versions_without_checksums_is_built_anew(dataset, folder, said):
    source = create_source(dataset, create_model())
    path = open_feature_cache(folder, source).path
    path.with_suffix(".crc").unlink()
    open_feature_cache(folder, source)
    assert any("built anew" in line for line in said.messages)


def test_tokens_that_do_not_fit_float16_are_refused(dataset, folder):
    model = create_model()

    def large(images):
        return model.base_model.frozen_tokens(images).tokens * 1e6

    with pytest.raises(UsageError, match=r"too large for float16.*float32"):
        open_feature_cache(folder, create_source(dataset, model, compute=large))
    assert not caches(folder)
    assert not leftovers(folder)
    assert np.isfinite(
        open_feature_cache(folder, create_source(dataset, model, compute=large, dtype="float32")).tokens
    ).all()


def test_a_damaged_image_is_named_and_leaves_nothing(dataset, folder, tmp_path):
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"4\.png"):
        open_feature_cache(folder, create_source(dataset, create_model()))
    assert not caches(folder)
    assert not leftovers(folder)
    (tmp_path / "images" / "4.png").unlink()
    with pytest.raises(UsageError, match=r"4\.png"):
        open_feature_cache(folder, create_source(dataset, create_model()))


@pytest.mark.parametrize("views", [0, -1])
def test_refuses_numbers_and_types_out_of_range(dataset, views):
    with pytest.raises(UsageError, match="at least 1"):
        create_source(dataset, create_model(), views=views)
    with pytest.raises(UsageError, match="float16, float32"):
        create_source(dataset, create_model(), dtype="bfloat16")


def test_the_limit_is_kept(dataset, folder, said):
    model = create_model()
    one = (3 * COUNT * VIEW_BYTES + 128) / 1e9
    with pytest.raises(UsageError, match=r"limit of .* --feature-cache-limit"):
        open_feature_cache(folder, create_source(dataset, model), limit=one / 2)
    assert not caches(folder)
    paths = [
        open_feature_cache(folder, create_source(dataset, model, identity={"number": number}), limit=2.5 * one).path
        for number in (0, 1)
    ]
    os.utime(paths[0], (2, 2))
    os.utime(paths[1], (1, 1))
    open_feature_cache(folder, create_source(dataset, model, identity={"number": 0}), limit=2.5 * one)  # used last
    third = open_feature_cache(folder, create_source(dataset, model, identity={"number": 2}), limit=2.5 * one)
    assert caches(folder) == {paths[0].name, third.path.name}
    assert any(str(paths[1]) in line and "removed" in line for line in said.messages)
    assert not paths[1].with_suffix(".json").exists()


def test_a_disk_that_fills_up_is_said_and_leaves_nothing(dataset, folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot be written.*File too large"):
            open_feature_cache(folder, create_source(dataset, create_model()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not caches(folder)
    assert not leftovers(folder)


def test_too_little_space_is_known_before_anything_is_computed(dataset, folder, monkeypatch):
    compute = Counting(create_model())
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("sat_peft.data.feature_cache.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(UsageError, match=r"needs .* GB.*--feature-views"):
        open_feature_cache(folder, create_source(dataset, compute.model, compute=compute))
    assert compute.images == 1
    assert not caches(folder)


def test_a_folder_that_cannot_be_made_is_refused(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written in .*file.*--feature-cache"):
        open_feature_cache(tmp_path / "file" / "cache", create_source(dataset, create_model()))


def test_a_finished_cache_is_read_from_a_folder_without_write_access():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder, dataset, model = Path(name) / "cache", write_images(Path(name) / "images"), create_model()
        first = open_feature_cache(folder, create_source(dataset, model))
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
        try:
            assert open_feature_cache(folder, create_source(dataset, model)).path == first.path
            with pytest.raises(UsageError, match="Permission denied"):
                open_feature_cache(folder, create_source(dataset, model, views=1))
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def _build_slowly(folder: Path, images: Path) -> tuple[int, float]:
    """Batches that were computed, and the sum of all values."""
    model, batches = create_model(), []

    def slow(images):
        batches.append(len(images))
        time.sleep(0.5)
        return model.base_model.frozen_tokens(images).tokens

    rows = open_feature_cache(folder, create_source(write_images(images), model, compute=slow))
    return len(batches), float(rows.tokens.sum(dtype="float64"))


@pytest.mark.slow
def test_after_a_kill_the_next_one_builds_it(dataset, folder, tmp_path):
    process = CONTEXT.Process(target=_build_slowly, args=(folder, tmp_path / "images"), daemon=True)
    process.start()
    while not leftovers(folder):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert leftovers(folder)
    assert not caches(folder)
    compute = Counting(create_model())
    rows = open_feature_cache(folder, create_source(dataset, compute.model, compute=compute))
    assert compute.images == COUNT * 3 + 1
    assert len(rows.tokens) == COUNT * 3
    assert not leftovers(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_two_processes_build_it_once(folder, tmp_path):
    (one, first), (two, second) = run_processes(_build_slowly, folder, tmp_path / "images", group=False)
    assert first == second
    # One batch to know the shape and five of 18 views, against one to check; whoever came second may have waited.
    assert sorted((one, two)) == [1, 6]


def test_epochs_take_all_views_in_turn(dataset, folder):
    rows = open_feature_cache(folder, create_source(dataset, create_model()))
    loader = build_feature_loader(rows, batch_size=4, seed=5)
    places = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        views = list(loader.sampler)
        assert sorted(view.row for view in views) == list(range(COUNT))
        assert all(view.seed // 3 == view.row for view in views)
        places += [view.seed for view in views]
    assert sorted(places) == list(range(COUNT * 3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_input_of_the_model(dataset, folder, num_workers):
    model = create_model()
    rows = open_feature_cache(folder, create_source(dataset, model))
    loader = Accelerator(cpu=True).prepare(build_feature_loader(rows, batch_size=4, num_workers=num_workers))
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [4, 2]
    assert isinstance(batches[0]["images"], FrozenTokens)
    assert model(batches[0]["images"]).maps.shape == (4, 4, 4)
    assert [int(index) % 2 for index in batches[0]["indices"]] == batches[0]["labels"].tolist()


def test_rows_are_sent_to_other_processes_without_their_tokens(dataset, folder):
    rows = open_feature_cache(folder, create_source(dataset, create_model()))
    content = pickle.dumps(rows)
    assert len(content) < rows.tokens.nbytes / 2
    np.testing.assert_array_equal(pickle.loads(content).tokens, rows.tokens)
