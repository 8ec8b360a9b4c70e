"""Evaluates a trained adapter under one or several protocols, beside the baselines that were trained with it.

    sat-peft evaluate --run runs/NAME --protocols original sat wsol
    sat-peft evaluate --adapter DIR --data DIR --output DIR
    accelerate launch -m sat_peft evaluate --run runs/NAME          on several GPUs

Writes tables, plots, figures and per-image records into the run's folder `evaluation`. Thresholds come from the
validation split, are given, or are read off the maps; the evaluated split chooses one only with
--threshold-source oracle, and every output then says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sat_peft.data.options import DataOptions
from sat_peft.errors import UsageError

INTERRUPTED = "the output folder is as it was"


@dataclass(frozen=True)
class Config(DataOptions):
    data: str | None = None
    """The data, as few_shot.py takes it; by default the run's. Without it, other options of the data change the run's:
    --data-root where the folder has moved, for example."""
    run: Path | None = None
    """Run folder of few_shot.py: names the adapter, the backbone, the data and the baselines."""
    adapter: Path | None = None
    """Adapter folder, instead of a run; needs --data."""
    backbone: str | None = None
    """Name of the backbone; by default the one that the run or the adapter records."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""

    protocols: tuple[Literal["original", "sat", "wsol", "tscam"], ...] = ("original",)
    """Evaluation protocols. One that fixes the image size gets the backbone at that size."""
    split: Literal["test", "validation"] = "test"
    """The split that is evaluated."""
    baselines: tuple[Literal["cam", "tscam", "rollout", "centre_box"], ...] | None = None
    """Evaluated beside SAT; by default all whose weights the run has, and the centre box."""

    threshold_source: Literal["fixed", "validation", "unsupervised", "oracle"] | None = None
    """`fixed` (--threshold, or the protocol's own), `validation` (the best there), `unsupervised` (from the maps of
    the validation or, without one, the training images; no boxes) or `oracle` (the best on the evaluated images). By
    default `fixed` with --threshold, else `validation` where that split has boxes, else `unsupervised` for a run and
    `fixed` for an adapter."""
    threshold: float | None = None
    """Threshold of the maps of every method."""

    bootstrap: int = 1000
    """Bootstrap samples for the confidence intervals; 0 for none."""
    ten_crop: bool = False
    """Classify by the mean softmax of ten crops where the protocol crops (`sat` on CUB); maps from the centre crop."""
    eval_batch_size: int = 64
    """Images per process and step."""
    num_workers: int = 0
    """Loader processes."""
    threads: int | None = None
    """Threads per process on a CPU; by default all cores, shared among the processes."""
    output: Path | None = None
    """Folder for the results; by default `evaluation` in the run folder."""
    overwrite: bool = False
    """Replace an evaluation in the output folder."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from accelerate import Accelerator

    from sat_peft import get_protocol, load_adapter
    from sat_peft.backbones import resolve_data_config
    from sat_peft.baselines import BASELINES, TRAINED_BASELINES, load_trained, localizers, needed_classifiers
    from sat_peft.comparison import sat_method
    from sat_peft.cpu import prepare_cpu
    from sat_peft.data.features import rows_with_boxes
    from sat_peft.data.loaders import UNLABELLED_IMAGES, build_evaluation_loader
    from sat_peft.data.options import changed_data_options, data_options, load
    from sat_peft.data.shots import sample_evenly
    from sat_peft.data.splits import check_class_names
    from sat_peft.evaluator import centre_box_accuracy, choose_centre_side, evaluate, ten_crop, threshold_of_maps
    from sat_peft.localization import choose_threshold
    from sat_peft.report.evaluation import (
        centre_box_entry,
        check_evaluation_folder,
        image_records,
        markdown,
        method_entry,
        write_evaluation,
    )
    from sat_peft.restore import trained_from_adapter, trained_from_run
    from sat_peft.shared_paths import without_absolute_paths

    # Options: whatever is wrong with them is said before anything is computed.
    if (config.run is None) == (config.adapter is None):
        raise UsageError("name either a run folder with --run or an adapter folder with --adapter.")
    output = config.output or (config.run / "evaluation" if config.run else None)
    if output is None:
        raise UsageError(
            "an adapter folder holds nothing but the adapter; name a folder for the results with --output."
        )
    check_evaluation_folder(output, overwrite=config.overwrite)
    if config.threshold is not None and config.threshold_source not in (None, "fixed"):
        raise UsageError(
            f"--threshold {config.threshold:g} and --threshold-source {config.threshold_source} exclude each other."
        )
    if config.bootstrap < 0:
        raise UsageError(f"bootstrap must be 0 or more, got {config.bootstrap}.")
    protocols = [get_protocol(name) for name in dict.fromkeys(config.protocols)]
    if config.ten_crop and not any(protocol.image.crop for protocol in protocols):
        raise UsageError("--ten-crop needs a protocol that crops its images: sat.")
    given = None if config.threshold is None else choose_threshold("fixed", value=config.threshold)

    find, folder = (trained_from_run, config.run) if config.run else (trained_from_adapter, config.adapter)
    trained = find(folder, backbone=config.backbone, weights=config.weights)
    selection, set_aside = data_options(config), {}
    if config.data is None:
        if trained.data is None:
            raise UsageError("an adapter does not record its data; name it with --data (part_scenes, or a folder).")
        selection = changed_data_options(trained.data, selection, DataOptions(data=None))
        set_aside = trained.set_aside
    names = config.baselines
    if names is None:
        available = {name for name in BASELINES if set(needed_classifiers([name])) <= trained.baselines.keys()}
        names = [name for name in BASELINES if name in available]
    missing = [name for name in needed_classifiers(names) if name not in trained.baselines]
    if missing:
        raise UsageError(
            f"there are no trained weights of the baselines {', '.join(missing)} here; a run of few_shot.py with "
            f"--baselines {' '.join(missing)} leaves them in its folder."
        )

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        prepare_cpu(config.threads, accelerator.print)
    say = accelerator.print

    # Data: the evaluated split, and the one that chooses thresholds where that is another.
    wanted = dict.fromkeys([config.split, "validation"])
    loaded = load(selection, wanted, set_aside=set_aside, say=say)
    splits, data = loaded.splits, selection.data
    if config.split not in splits:
        raise UsageError(f"{data} has no {config.split} split.")
    rows = splits[config.split]
    class_names = rows.features["label"].names
    shown = trained.display_names | loaded.display_names
    check_class_names(trained.class_names, trained.num_classes, class_names, shown)
    if not loaded.display_names:
        class_names = [shown.get(name, name) for name in class_names]
    image_ids, labels = rows["image_id"][:], [class_names[label] for label in rows["label"]]
    titles = {"sat": "SAT", **BASELINES}
    if not len(rows_with_boxes(rows)):
        raise UsageError(f"the {config.split} split of {data} has no boxes, so localisation cannot be measured.")
    held_out = splits.get("validation") if config.split != "validation" else None
    chooses = held_out is not None and len(rows_with_boxes(held_out)) > 0
    # A run without validation boxes took its threshold from its maps too; an adapter alone gets the protocol's.
    without_boxes = "unsupervised" if config.run else "fixed"
    source = config.threshold_source or ("fixed" if given else "validation" if chooses else without_boxes)
    if source == "validation" and not chooses:
        raise UsageError(
            "--threshold-source validation needs a validation split with boxes that is not the evaluated split. "
            "Take `fixed`, or `unsupervised`, which needs no boxes."
        )
    if source == "unsupervised":
        unlabelled = (
            held_out if held_out is not None else load(selection, ["train"], set_aside=set_aside).splits["train"]
        )
        unlabelled = sample_evenly(unlabelled, UNLABELLED_IMAGES)

    def measure(name, method, protocol, data_config):
        """(evaluation, evaluation of the held-out split or None) of one method under one protocol."""

        def loader(dataset, **options):
            sizes = {"batch_size": config.eval_batch_size, "num_workers": config.num_workers}
            return accelerator.prepare(
                build_evaluation_loader(dataset, data_config, protocol=protocol, **sizes, **options)
            )

        known, threshold = None, given or choose_threshold("fixed", protocol=protocol)
        if source == "validation" or (name == "sat" and "centre_box" in names and chooses):
            known = evaluate(method, loader(held_out), accelerator, protocol=protocol)
        if source == "validation":
            threshold = choose_threshold("validation", scores=known.result)
        elif source == "unsupervised":
            threshold = threshold_of_maps(method, loader(unlabelled), accelerator, protocol)
        elif source == "oracle":
            threshold = "oracle"
        crops = config.ten_crop and protocol.image.crop is not None
        measured = evaluate(
            ten_crop(method) if crops else method,
            loader(rows, masks=True, ten_crop=crops),
            accelerator,
            protocol=protocol,
            threshold=threshold,
            # The intervals are for the files, which one process writes.
            bootstrap=config.bootstrap if accelerator.is_main_process else 0,
        )
        return measured, known

    def build_methods(backbone):
        """SAT, then the baselines: they read the bare backbone, from which the adapter is taken out again."""
        model = load_adapter(backbone, trained.adapter).to(accelerator.device)
        yield "sat", sat_method(model)
        bare, classifiers = model.unload(), {}
        for name in needed_classifiers(names):
            classifiers[name] = TRAINED_BASELINES[name](bare, len(class_names)).eval()
            load_trained(classifiers[name], trained.baselines[name])
            classifiers[name].to(accelerator.device)
        yield from localizers(names, classifiers).items()

    # One backbone per image size: position embeddings are resized where a protocol fixes another than the training's.
    sections, curves, records = {}, {}, {}
    sizes = {p.name: p.image.crop or p.image.resize or trained.image_size for p in protocols}
    for size in dict.fromkeys(sizes.values()):
        backbone = trained.create_backbone(size)
        data_config = resolve_data_config(backbone)
        group = [protocol for protocol in protocols if sizes[protocol.name] == size]
        for protocol in group:
            sections[protocol.name] = {
                "source": protocol.source,
                "image_size": list(data_config.image_size),
                "ten_crop": config.ten_crop and protocol.image.crop is not None,
                "oracle": source == "oracle",
                "methods": {},
            }
            curves[protocol.name], records[protocol.name] = {}, []
        centre_boxes = {}
        for name, method in build_methods(backbone):
            for protocol in group:
                say(f"evaluating {titles[name]} under protocol {protocol.name}")
                measured, known = measure(name, method, protocol, data_config)
                sections[protocol.name]["methods"][name] = method_entry(titles[name], measured.result)
                curves[protocol.name][name] = measured.result.per_threshold
                records[protocol.name] += image_records(name, measured, image_ids, labels)
                if known is not None and name == "sat" and "centre_box" in names:
                    side = choose_centre_side(known.images, protocol)
                    figures = centre_box_accuracy(measured.images, side, protocol)
                    centre_boxes[protocol.name] = centre_box_entry(side, figures)
        for name, entry in centre_boxes.items():
            sections[name]["methods"]["centre_box"] = entry
    if "centre_box" in names and not chooses:
        say("centre box: left out, since its side is chosen on a validation split with boxes that is not evaluated")

    # The results are for sharing; the run's paths.json tells where its data lies.
    results = {
        "run": config.run,
        "adapter": trained.adapter,
        "backbone": trained.backbone,
        "data": data,
        "data_root": selection.data_root,
        "split": config.split,
        "num_images": len(rows),
        "skipped": loaded.problems.report(),
        "num_classes": len(class_names),
        "bootstrap": config.bootstrap,
    }
    results = without_absolute_paths(results)
    results["protocols"] = {protocol.name: sections[protocol.name] for protocol in protocols}
    if accelerator.is_main_process:
        write_evaluation(output, results, curves, records)
    say(f"\n{markdown(results)}\nWritten to {output}")
