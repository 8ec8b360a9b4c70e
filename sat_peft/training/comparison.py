"""What a trained model is worth: SAT and the baselines on the same test images, with thresholds from elsewhere."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from accelerate import Accelerator
from peft import PeftModel
from torch.utils.data import DataLoader

from sat_peft.data.features import rows_with_boxes
from sat_peft.data.loaders import Loaders
from sat_peft.evaluation.evaluator import Evaluation
from sat_peft.evaluation.frozen import save_trained
from sat_peft.evaluation.health import Health, examine
from sat_peft.evaluation.measure import Measured, MeasuredLoaders, augmented, measure, sat_method
from sat_peft.evaluation.registry import baselines, localizers, method_titles, needed_classifiers, shared_passes
from sat_peft.evaluation.standing import standing
from sat_peft.evaluation.summaries import summary_loader
from sat_peft.files.outputs import atomic_replacement
from sat_peft.options.training import EvaluationOptions, LossOptions, OptimizationOptions
from sat_peft.report.gallery import draw_best_and_worst
from sat_peft.report.model_card import write_model_card
from sat_peft.report.page import REPORT, write_report
from sat_peft.report.records import MapPictures, measurement, write_gallery
from sat_peft.report.tables import method_table
from sat_peft.runs.folder import RunFolder
from sat_peft.training.loop import Training
from sat_peft.tuner.parameters import ParameterCount

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Args:
        num_classes: number of classes of the data.
        methods: what each reached, by name; SAT is the first.
        health: verdict on SAT.
    """

    num_classes: int
    methods: dict[str, Measured]
    health: Health

    @property
    def sat(self) -> Evaluation:
        """The evaluation of SAT."""
        return self.methods["sat"].evaluation

    def table(self) -> str:
        """The figures as text, and where the thresholds came from."""
        lines = [method_table({each.title: each.figures for each in self.methods.values()})]
        if self.sat.num_with_boxes:
            found = [(each.title, each.evaluation.result) for each in self.methods.values() if each.evaluation]
            chosen = ", ".join(f"{title} {result.threshold:g}" for title, result in found)
            lines.append(f"Thresholds: {chosen} ({self.sat.result.threshold_source})")
        else:
            lines.append("Localisation: not measured (the test split has no boxes); examples.png shows the maps.")
        return "\n".join(lines)


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
        accelerator: `Accelerator` of the run.
        run: gets examples.png, the weights of the baselines and their metrics.
        options: what is measured.
        loss: loss that the model was trained with.
        optimization, steps, checkpoint_every: of the trained baselines.
    """
    validation = loaders.validation
    # Without boxes, validation images are worth their maps alone.
    has_boxes = validation is not None and len(rows_with_boxes(validation.dataset.rows)) > 0
    prepared = MeasuredLoaders(
        accelerator.prepare(loaders.test),
        accelerator.prepare(validation) if has_boxes else None,
        accelerator.prepare(validation or loaders.unlabelled),
    )
    settings = {"protocol": options.protocol, "threshold": options.threshold, "tta": options.tta}
    shown = sat_method(model, block_maps=True)
    pictures = MapPictures()
    found = measure([("sat", shown)], prepared, accelerator, priors=options.baselines, see=pictures, **settings)
    sat = found["sat"].evaluation
    if accelerator.is_main_process:
        drawn = augmented(shown, options.tta)
        draw_best_and_worst(run.path / "examples.png", drawn, loaders.test.dataset, sat, accelerator.device)
    write_gallery(run.path, pictures, prepared.test, sat, accelerator, protocol=options.protocol)

    start = time.perf_counter()
    backbone, num_classes = model.unload(), model.peft_config["default"].num_classes
    trained = {}
    for name in needed_classifiers(options.baselines):
        baseline = baselines()[name]
        classifier = baseline.classifier(backbone, num_classes).to(accelerator.device).eval()
        training = Training(
            accelerator,
            classifier,
            summary_loader(classifier, loaders.train, accelerator, steps=steps) or train_loader,
            optimization,
            run,
            name=baseline.title,
            steps=steps,
            learning_rate=baseline.learning_rate,
            checkpoint_every=checkpoint_every,
        )
        for batch in training:
            training.update({"total": F.cross_entropy(training.module(batch["images"]), batch["labels"])})
        trained[name] = training.finish()
        if accelerator.is_main_process:
            (run.path / "baselines").mkdir(exist_ok=True)
            with atomic_replacement(run.path / "baselines" / f"{name}.safetensors") as file:
                save_trained(trained[name], file)
    with shared_passes(options.baselines):
        others = measure(localizers(options.baselines, trained), prepared, accelerator, **settings)
    if others:
        seconds = time.perf_counter() - start
        logger.info(f"Baselines: {seconds:.0f} s beside SAT; --baselines names those that are wanted")
    found |= others
    methods = {name: found[name] for name in method_titles() if name in found}
    figures = {name: each.figures for name, each in methods.items()}
    health = examine(sat, area_target=loss.area_target if loss.area_weight else None, figures=figures)
    return Comparison(num_classes, methods, health)


def write_results(
    run: RunFolder,
    comparison: Comparison,
    *,
    protocol: str,
    tta: str,
    parameters: ParameterCount,
    training_images: int,
    seconds: float,
    **more: object,
) -> dict:
    """Writes results.json, the card of the adapter and the report, and returns the content of results.json.

    It is the last thing of a run: what is finished owes nothing.

    Args:
        run: with the adapter in it.
        comparison: comparison of the trained model.
        protocol, tta: of the comparison.
        parameters: parameters of the model.
        training_images: how many it was trained on.
        seconds: seconds that the run took.
        more: entries of the recipe's own.
    """
    sat, methods = comparison.sat.result, comparison.methods
    results = {
        "protocol": protocol,
        "threshold": sat.threshold,
        "threshold_source": sat.threshold_source,
        "tta": tta,
        "trainable_parameters": parameters.trainable,
        "training_images": training_images,
        "seconds": round(seconds, 1),
        "methods": {name: each.figures for name, each in methods.items()},
        "thresholds": {name: each.evaluation.result.threshold for name, each in methods.items() if each.evaluation},
        "centre_box_side": methods["centre_box"].side if "centre_box" in methods else None,
        "test_images": sat.num_images,
        "health": asdict(comparison.health),
        "standing": standing(methods),
        "adapter_bytes": sum(file.stat().st_size for file in (run.path / "adapter").glob("*.safetensors")),
        **more,
    }
    run.write_json("results.json", results)
    run.write_json("parameters.json", asdict(parameters))
    run.write_json("measurement.json", measurement(methods, num_classes=comparison.num_classes))
    if run.main_process:
        write_model_card(run.path)
        write_report(run.path, status="finished")
    return results


def close_run(accelerator: Accelerator, run: RunFolder, comparison: Comparison, results: dict) -> None:
    """Says how a run that is finished went."""
    accelerator.end_training()
    size, seconds = results["adapter_bytes"] / 1000, results["seconds"]
    # Without boxes, an evaluation has nothing to measure and refuses the run.
    measured = comparison.sat.num_with_boxes > 0
    then = "see more of its figures:\n  sat-peft evaluate" if measured else "predict boxes:\n  sat-peft predict IMAGES"
    remarks = "\n".join(filter(None, (results["standing"], comparison.health.text())))
    logger.info(
        f"\nTest split: {results['test_images']} images, protocol {results['protocol']}, percent\n"
        f"{comparison.table()}\n"
        f"\n{remarks}\n"
        f"\nRun folder: {run.path}  (adapter {size:.0f} kB, {seconds:.0f} s)\n"
        f"Look at {run.path / REPORT}, then {then} --run {run.path}"
    )
