"""The options that name a data set: the same flags in every recipe and script, and what they load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sat_peft.options.choices import DifficultyName
from sat_peft.options.training import RUN_FIELDS

if TYPE_CHECKING:
    # datasets and torch are imported where data are read, so that a recipe answers --help at once.
    from sat_peft.data.sources import OpenSource
    from sat_peft.data.splits import DataSplits


@dataclass(frozen=True)
class SourceOptions:
    """Where images, classes and boxes are read from."""

    data: str = "part_scenes"
    """`part_scenes` (generated, embedded); a folder of images, whose layout tells its format; the name of a source
    (cub, coco, voc, yolo, folder, …) with --data-root; or hub:ID, a data set of the Hub."""
    data_root: Path | None = None
    """Folder of the source that --data names."""
    skip_bad: bool = False
    """Leave out images and entries that cannot be used, counted and listed in skipped.json, instead of stopping at the
    first one. Every image is read once."""
    allow_outside: bool = False
    """Also read images outside of the data's folder, where absolute paths, `..` or links lead. Pictures of them may get
    into reports that are shared."""

    difficulty: DifficultyName | None = None
    """Difficulty of PartScenes, `standard` by default. `cluttered` are those with one to three smaller objects behind
    the labelled one, which nothing labels."""
    scene_seed: int | None = None
    """Seed of PartScenes, 0 by default: another seed draws other images of the same classes, to choose settings on."""

    label_from: Literal["largest", "first", "only"] | None = None
    """Which object names the class of an image with several (coco, voc, yolo, hub): the largest (the default), the
    first, or `only`: images of several classes are bad entries. Boxes of other classes are not used."""
    keep_crowd: bool = False
    """Keep COCO's crowds, whose box is around many objects."""
    keep_difficult: bool = False
    """Keep the objects that Pascal VOC marks as difficult."""
    annotations: str | None = None
    """COCO's annotation files below the root, for example 'json/{split}.json'; the usual places by default."""
    images: str | None = None
    """COCO's folders of images below the root, for example 'pictures/{split}'."""
    year: str | None = None
    """Year of Pascal VOC, where the folder has several."""

    boxes: Literal["auto", "xml", "csv", "val_gt", "none"] | None = None
    """Where ILSVRC's boxes are taken from, see the source ilsvrc."""
    level: Literal["variant", "family", "manufacturer"] | None = None
    """What a class of FGVC Aircraft is; the variant by default."""
    trainval: bool = False
    """Train on the official train and val of FGVC Aircraft, without a validation split."""
    metadata: str | None = None
    """Folder of the metadata of wsolevaluation; ROOT/metadata by default."""
    proxy: bool = False
    """Train on wsolevaluation's proxy, a tenth of the training images."""
    lists: str | None = None
    """Folder of the lists of the SAT paper's repository; the root by default."""

    subset: str | None = None
    """Subset (configuration) of a data set of the Hub."""
    train_split: str | None = None
    """Name of the train split of a data set of the Hub, where it is another."""
    validation_split: str | None = None
    """Name of its validation split."""
    test_split: str | None = None
    """Name of its test split."""
    image_column: str | None = None
    """Column of the images of a data set of the Hub; guessed where only one can be meant, and so are the next two."""
    label_column: str | None = None
    """Column of the classes, for example label or objects.category."""
    box_column: str | None = None
    """Column of the boxes, for example bbox or objects.bbox; `none` to leave them out."""
    box_format: Literal["xyxy", "xywh", "voc", "inclusive", "yolo", "relative"] | None = None
    """Format of these boxes: xyxy or xywh in pixels from 0, voc (xyxy from 1, the last pixel included), inclusive (xyxy
    from 0, the last pixel included), yolo (centre and size as shares of the sides), relative (xyxy as shares)."""
    mask_column: str | None = None
    """Column of masks, light on the object."""


@dataclass(frozen=True)
class DataOptions(SourceOptions):
    """What a recipe's `Config` inherits, to have the flags of the data."""

    validation_fraction: float | None = None
    """Share of the training images of every class that is set aside for validation, where there is no such split."""
    test_fraction: float = 0.2
    """The same for the test split, where the data has none."""
    split_seed: int = 0
    """Seed of these shares; apart from --seed, so that runs of several seeds are tested on the same images."""


Options = TypeVar("Options", bound=SourceOptions)

# Fields that are handed to the reader of every source, or to `load_splits`; the others are options of one source.
_OF_EVERY_SOURCE = ("data", "data_root", "skip_bad", "allow_outside")
_OF_SPLITS = ("validation_fraction", "test_fraction", "split_seed", "allow_outside")


def data_options(config: object) -> DataOptions:
    """The options of the data alone, of a recipe's `Config` or of another object that has all of them."""
    return DataOptions(**{field.name: getattr(config, field.name) for field in fields(DataOptions)})


def recorded_data_options(config: Mapping) -> DataOptions:
    """The options in the config.json of a run. Those that it does not have are the defaults."""
    known = {field.name: config[field.name] for field in fields(DataOptions) if field.name in config}
    if known.get("data_root") is not None:
        known["data_root"] = Path(known["data_root"])
    return DataOptions(**known)


def changed_data_options(options: DataOptions, given: DataOptions, unset: DataOptions) -> DataOptions:
    """`options` with those of `given` that are not as in `unset`."""
    names = [field.name for field in fields(DataOptions)]
    changes = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(unset, name)}
    return replace(options, **changes)


def with_absolute_paths(options: Options) -> Options:
    """The same options, with absolute paths, so that a run's paths.json names its data from any working directory."""
    from sat_peft.data.sources import sources

    data = options.data
    is_folder = not data.startswith("hub:") and data not in sources()
    if is_folder and not Path(data).is_dir():
        return options  # What is wrong with the name is told when it is read, as it was given.
    return replace(
        options,
        data=str(_absolute(Path(data))) if is_folder else data,
        **{
            field.name: _absolute(value)
            for field in fields(options)
            if isinstance(value := getattr(options, field.name), Path) and field.name not in RUN_FIELDS
        },
    )


def _absolute(path: Path) -> Path:
    # A link is named as it is; the parent of what it leads to is not that of the link, so `..` is followed.
    return path.resolve() if ".." in path.parts else path.absolute()


def source_options(options: SourceOptions) -> dict:
    """What `load_source` hands to the source. Options as by default are left out, since most sources lack them."""
    named = {field.name: getattr(options, field.name) for field in fields(SourceOptions)}
    return {name: value for name, value in named.items() if name not in _OF_EVERY_SOURCE and value}


def open_data(options: SourceOptions) -> OpenSource:
    """Opens the data set that the options name; see `sat_peft.data.sources.open_source`."""
    from sat_peft.data.sources import open_source

    outside = options.allow_outside
    return open_source(options.data, root=options.data_root, allow_outside=outside, **source_options(options))


def load(
    options: DataOptions,
    splits: Iterable[str] = ("train", "validation", "test"),
    *,
    shots: int = 0,
    set_aside: Mapping[str, Sequence[str]] | None = None,
) -> DataSplits:
    """Loads the splits of the data that the options name; see `sat_peft.data.splits.load_splits`.

    Raises:
        UsageError: an option that the source does not have, and whatever `load_splits` raises.
    """
    from sat_peft.data.sources import Problems
    from sat_peft.data.splits import load_splits

    return load_splits(
        options.data,
        splits,
        root=options.data_root,
        shots=shots,
        set_aside=set_aside,
        problems=Problems(skip=options.skip_bad),
        **{name: getattr(options, name) for name in _OF_SPLITS},
        **source_options(options),
    )
