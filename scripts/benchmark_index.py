"""Time and memory of indexing a folder of many images, against a bare walk over the same files.

    python scripts/benchmark_index.py
    python scripts/benchmark_index.py --images 1000000 --classes 1000 --limit-seconds 200

Generates class folders of tiny images (four fifths for training; the rest for testing, with boxes in metadata.jsonl),
reads both splits with `load_source`, and fails beyond the limits. The walk lists every file and asks for its size,
which no index can do without; it goes first, so that both find the file system's cache warm. Memory is sampled while
the index is built, and counts from after the imports. The ratio is of processor time, which other programs on the
machine disturb least; the limit is of the time that passes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

TEST_SHARE = 5
MEGABYTE = 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="files to index (default: 100000)")
    parser.add_argument("--classes", type=int, default=200, help="class folders (default: 200)")
    parser.add_argument("--limit-seconds", type=float, default=20, help="fails beyond (default: 20)")
    parser.add_argument("--limit-megabytes", type=float, default=300, help="fails beyond (default: 300)")
    parser.add_argument("--folder", help="where the tree is generated (default: the folder of temporary files)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def generate(root: Path, images: int, classes: int) -> None:
    """Writes the tree: image i belongs to class i mod `classes`, every fifth of a class to the test split."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (90, 120, 60)).save(buffer, "JPEG")
    content = buffer.getvalue()
    for label in range(classes):
        for split in ("train", "test"):
            (root / split / f"class_{label:04d}").mkdir(parents=True)
    with (root / "test" / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for index in range(images):
            split = "train" if index // classes % TEST_SHARE else "test"
            name = f"class_{index % classes:04d}/image_{index:08d}.jpg"
            with open(f"{root}/{split}/{name}", "wb") as file:
                file.write(content)
            if split == "test":
                metadata.write(json.dumps({"file_name": name, "objects": {"bbox": [[1, 2, 8, 6]]}}) + "\n")


def walk(root: Path) -> int:
    """The number of image files below `root`, each asked for its size."""
    count = 0
    for folder, _, names in os.walk(root):
        for name in names:
            count += name.endswith(".jpg") and os.stat(f"{folder}/{name}").st_size > 0
    return count


def main() -> None:
    arguments = parse_arguments()
    from benchmark.measure import MemoryPeak
    from sat_peft.data.sources import open_source

    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="benchmark_index-") as folder:
        root = Path(folder)
        generate(root, arguments.images, arguments.classes)
        start = time.process_time()
        found = walk(root)
        walk_seconds = time.process_time() - start
        with MemoryPeak() as memory:
            start = time.perf_counter(), time.process_time()
            source = open_source(str(root))
            splits = [source.read(split) for split in ("train", "test")]
            seconds, processor_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        rows = sum(len(split) for split in splits)
    if rows != found:
        sys.exit(f"{found} images were written, {rows} were indexed")
    result = {
        "images": rows,
        "classes": arguments.classes,
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),
        "walk_processor_seconds": round(walk_seconds, 2),
        "ratio": round(processor_seconds / walk_seconds, 1),
        "megabytes": round(memory.growth / MEGABYTE, 1),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{rows} images in {arguments.classes} classes, train and test")
        print(f"index {processor_seconds:6.2f} s of a processor, {seconds:.2f} s of time, {result['megabytes']:.0f} MB")
        print(f"walk  {walk_seconds:6.2f} s of a processor, ratio {result['ratio']:.1f}")
    late = seconds > arguments.limit_seconds
    large = result["megabytes"] > arguments.limit_megabytes
    if late or large:
        sys.exit(f"beyond the limit of {arguments.limit_seconds:g} s and {arguments.limit_megabytes:g} MB")


if __name__ == "__main__":
    main()
