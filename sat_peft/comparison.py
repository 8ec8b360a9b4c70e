"""What a trained model is worth: SAT and the baselines on the same test images, with thresholds from elsewhere."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from accelerate import Accelerator
from peft import PeftModel
from torch.utils.data import DataLoader

from sat_peft.baselines import BASELINES, TRAINED_BASELINES, localizers, needed_classifiers, save_trained
from sat_peft.baselines.summaries import summary_loader
from sat_peft.data.features import rows_with_boxes
from sat_peft.data.loaders import Loaders
from sat_peft.evaluator import (
    Evaluation,
    Method,
    centre_box_accuracy,
    choose_centre_side,
    evaluate,
    threshold_of_maps,
)
from sat_peft.files.outputs import atomic_replacement
from sat_peft.health import Health, examine
from sat_peft.localization import ThresholdChoice, choose_threshold
from sat_peft.model_card import write_model_card
from sat_peft.options import EvaluationOptions, LossOptions, OptimizationOptions
from sat_peft.parameters import ParameterCount
from sat_peft.report.gallery import draw_best_and_worst
from sat_peft.report.page import REPORT, write_report
from sat_peft.report.records import BOOTSTRAP, measurement, write_gallery
from sat_peft.report.tables import FIGURES, method_table
from sat_peft.run import RunFolder
from sat_peft.training import Training

# TS-CAM has the head of SAT and its learning rate; a linear classifier learns with larger steps.
_LEARNING_RATES = {"cam": 1e-2}


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Args:
        class_names: of the data.
        evaluations: by method.
        figures: by method, in percent; None where not measured.
        centre_side: of the centre box, as a share of the image's sides.
        health: of SAT.
    """

    class_names: list[str]
    evaluations: dict[str, Evaluation]
    figures: dict[str, dict[str, float | None]]
    centre_side: float | None
    health: Health

    def table(self) -> str:
        """The figures as text, and where the thresholds came from."""
        titles = {"sat": "SAT", **BASELINES, "centre_box": f"centre box, side {self.centre_side}, classes of SAT"}
        lines = [method_table({titles[name]: figures for name, figures in self.figures.items()})]
        if self.evaluations["sat"].num_with_boxes:
            chosen = ", ".join(f"{titles[name]} {each.result.threshold:g}" for name, each in self.evaluations.items())
            lines.append(f"  Thresholds: {chosen} ({self.evaluations['sat'].result.threshold_source})")
        else:
            lines.append("  Localisation: not measured (the test split has no boxes); examples.png shows the maps.")
        return "\n".join(lines)


def sat_method(model: PeftModel, *, block_maps: bool = False) -> Method:
    """A model with a SAT adapter, as the evaluator takes it; for the gallery with its block maps."""

    def localize(images, labels):
        output = model(images)
        found = output.logits, output.maps_of(labels)
        return (*found, output.block_maps) if block_maps else found

    return localize


def compare(
    model: PeftModel,
    train_loader: DataLoader,
    loaders: Loaders,
    accelerator: Accelerator,
    run: RunFolder,
    options: EvaluationOptions,
    *,
    loss: LossOptions,
    optimization: OptimizationOptions,
    steps: int,
    checkpoint_every: int = 0,
) -> Comparison:
    """Measures SAT, takes the adapter out, then trains and measures the baselines on the bare backbone.

    Args:
        model: the trained model, in evaluation mode; it is unloaded.
        train_loader: prepared, with the training images, for the baselines.
        loaders: whose test and validation splits are measured. The test split never chooses a threshold.
        accelerator: of the run.
        run: gets examples.png, the weights of the baselines and their metrics.
        options: what is measured.
        loss: that the model was trained with.
        optimization, steps, checkpoint_every: of the trained baselines.
    """
    test = accelerator.prepare(loaders.test)
    # Without boxes, validation images are worth their maps alone.
    has_boxes = loaders.validation is not None and len(rows_with_boxes(loaders.validation.dataset.rows)) > 0
    validation = accelerator.prepare(loaders.validation) if has_boxes else None
    unlabelled = accelerator.prepare(loaders.validation or loaders.unlabelled)

    def choose(method: Method, known: Evaluation | None) -> ThresholdChoice:
        """The given threshold, else the best on validation boxes, else what maps suggest without any."""
        if options.threshold is not None:
            return choose_threshold("fixed", value=options.threshold)
        if known is not None and known.num_with_boxes:
            return choose_threshold("validation", scores=known.result)
        return threshold_of_maps(method, unlabelled, accelerator, options.protocol)

    def measure(method: Method) -> tuple[Evaluation, Evaluation | None]:
        known = evaluate(method, validation, accelerator, protocol=options.protocol) if validation else None
        threshold = choose(method, known)
        settings = {"protocol": options.protocol, "threshold": threshold, "bootstrap": BOOTSTRAP}
        return evaluate(method, test, accelerator, **settings), known

    sat, known = measure(sat_method(model))
    if accelerator.is_main_process:
        picture = run.path / "examples.png"
        draw_best_and_worst(picture, sat_method(model), loaders.test.dataset, sat, accelerator.device)

    gallery = sat_method(model, block_maps=True)
    write_gallery(run.path, gallery, test, sat, accelerator, protocol=options.protocol)

    start = time.perf_counter()
    backbone, num_classes = model.unload(), model.peft_config["default"].num_classes
    trained = {}
    for name in needed_classifiers(options.baselines):
        classifier = TRAINED_BASELINES[name](backbone, num_classes).to(accelerator.device).eval()
        training = Training(
            accelerator,
            classifier,
            summary_loader(classifier, loaders.train, accelerator, steps=steps) or train_loader,
            optimization,
            run,
            name=BASELINES[name],
            steps=steps,
            learning_rate=_LEARNING_RATES.get(name),
            checkpoint_every=checkpoint_every,
        )
        for batch in training:
            training.update({"total": F.cross_entropy(training.module(batch["images"]), batch["labels"])})
        trained[name] = training.finish()
        if accelerator.is_main_process:
            (run.path / "baselines").mkdir(exist_ok=True)
            with atomic_replacement(run.path / "baselines" / f"{name}.safetensors") as file:
                save_trained(trained[name], file)
    evaluations = {"sat": sat}
    for name, method in localizers(options.baselines, trained).items():
        evaluations[name], _ = measure(method)

    if len(evaluations) > 1:
        seconds = time.perf_counter() - start
        accelerator.print(f"Baselines: {seconds:.0f} s beside SAT; --baselines names those that are wanted")

    measured = sat.num_with_boxes > 0
    figures = {
        name: {key: each.result.summary[key] if measured or key == "top1_cls" else None for key in FIGURES}
        for name, each in evaluations.items()
    }
    side = None
    if "centre_box" in options.baselines and measured and known and known.num_with_boxes:
        side = choose_centre_side(known.images, options.protocol)
        figures["centre_box"] = centre_box_accuracy(sat.images, side, options.protocol)
    health = examine(sat, area_target=loss.area_target if loss.area_weight else None, figures=figures)
    return Comparison(model.peft_config["default"].class_names, evaluations, figures, side, health)


def write_results(
    run: RunFolder,
    comparison: Comparison,
    *,
    protocol: str,
    parameters: ParameterCount,
    training_images: int,
    seconds: float,
    **more: object,
) -> dict:
    """Writes results.json, the card of the adapter and the report, and returns the content of results.json.

    It is the last thing of a run: what is finished owes nothing.

    Args:
        run: with the adapter in it.
        comparison: of the trained model.
        protocol: of the comparison.
        parameters: of the model.
        training_images: how many it was trained on.
        seconds: that the run took.
        more: entries of the recipe's own.
    """
    sat = comparison.evaluations["sat"].result
    results = {
        "protocol": protocol,
        "threshold": sat.threshold,
        "threshold_source": sat.threshold_source,
        "trainable_parameters": parameters.trainable,
        "training_images": training_images,
        "seconds": round(seconds, 1),
        "methods": comparison.figures,
        "thresholds": {name: each.result.threshold for name, each in comparison.evaluations.items()},
        "centre_box_side": comparison.centre_side,
        "test_images": sat.num_images,
        "health": asdict(comparison.health),
        "adapter_bytes": sum(file.stat().st_size for file in (run.path / "adapter").glob("*.safetensors")),
        **more,
    }
    run.write_json("results.json", results)
    run.write_json("parameters.json", asdict(parameters))
    classes = len(comparison.class_names)
    run.write_json("measurement.json", measurement(comparison.evaluations, comparison.figures, num_classes=classes))
    if run.main_process:
        write_model_card(run.path)
        write_report(run.path, status="finished")
    return results


def close_run(accelerator: Accelerator, run: RunFolder, comparison: Comparison, results: dict) -> None:
    """Says how a run that is finished went."""
    accelerator.end_training()
    size, seconds = results["adapter_bytes"] / 1000, results["seconds"]
    # Without boxes, an evaluation has nothing to measure and refuses the run.
    measured = comparison.evaluations["sat"].num_with_boxes > 0
    then = "see more of its figures:\n  sat-peft evaluate" if measured else "predict boxes:\n  sat-peft predict IMAGES"
    accelerator.print(
        f"\nTest split: {results['test_images']} images, protocol {results['protocol']}, percent\n"
        f"{comparison.table()}\n"
        f"\n{comparison.health.text()}\n"
        f"\nRun folder: {run.path}  (adapter {size:.0f} kB, {seconds:.0f} s)\n"
        f"Look at {run.path / REPORT}, then {then} --run {run.path}"
    )
