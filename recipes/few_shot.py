"""Few-shot fine-tuning: learns to localise objects from a few labelled images per class, without any box.

    accelerate launch recipes/few_shot.py                        one image per class of the generated PartScenes
    accelerate launch recipes/few_shot.py --data DIR --shots 5   a folder of images: DIR/train/CLASS/*.jpg, DIR/test/…

A pretrained Vision Transformer stays frozen; a spatial token and a small head are trained on it (more with --tune). The
run ends with a table of localisation accuracy on the test split beside two baselines, and leaves a run folder.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    data: str = "part_scenes"
    """`part_scenes` (generated, embedded), or a folder with train/CLASS/*.jpg, test/CLASS/*.jpg and maybe validation/;
    boxes, where known, in SPLIT/metadata.jsonl as `objects.bbox` (x, y, width, height in pixels)."""
    shots: int = 1
    """Labelled training images per class."""
    seed: int = 0
    """Of the choice of images, the initialisation, the order and the augmentation."""
    backbone: str = "sat_peft_vit_nano_patch8_96"
    """Any Vision Transformer of timm, for example deit_small_patch16_224 or vit_small_patch14_dinov2."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""
    image_size: int | None = None
    """Side of the images in pixels; the backbone's own by default."""

    num_spatial_blocks: int = 6
    """K: the last blocks in which the spatial token masks the attention (the paper has 3 of 12; here all 6 of the nano
    ViT, whose late blocks see little but the part that tells the class)."""
    tune: Literal["none", "lora", "full"] = "lora"
    """Trained besides the token and the head: nothing, LoRA in the last K blocks, or the last K blocks whole."""
    head: Literal["conv3x3", "conv1x1", "separable"] = "conv3x3"
    """The classification head (the paper's is conv3x3)."""
    token_init: Literal["random", "class_token"] | None = None
    """The spatial token starts at random (the paper) or as a copy of the class token; by default as the class token
    where the backbone has one."""
    lora_rank: int = 8
    """Rank of LoRA, for --tune lora."""
    area_target: float = 0.15
    """Mean share of the image that the maps are drawn to (the paper: .25 on CUB, .35 on ILSVRC)."""

    steps: int = 150
    """Optimizer steps."""
    batch_size: int = 20
    """Training images per process and step."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Of the learning rate, after the warm-up."""
    warmup_steps: int = 10
    """Steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Of AdamW; biases, norms and tokens have none."""
    drop_path: float = 0.0
    """Largest rate of stochastic depth, in all blocks (the paper: .1)."""
    augmentation: Literal["shift", "crop", "none"] = "shift"
    """`shift`: small reflected shifts and flips; `crop`: random crops from 8/7 of the size and flips (the paper)."""

    baselines: tuple[Literal["cam", "tscam", "rollout", "centre_box"], ...] = ("cam", "centre_box")
    """Measured beside SAT, on the same backbone, images and steps. Attention rollout takes its classes from CAM; the
    centre box needs a validation split with boxes."""

    threshold: float | None = None
    """Threshold of the maps; by default the best on the validation split if it has boxes, else the protocol's."""
    eval_batch_size: int = 64
    """Images per process and evaluation step."""
    num_workers: int = 0
    """Loader processes."""
    threads: int | None = None
    """Threads per process on a CPU; by default all cores, shared among the processes."""
    output: Path | None = None
    """Run folder; by default a new one below runs/."""
    overwrite: bool = False
    """Replace a run in the output folder."""


PROTOCOL = "original"
CAM_LEARNING_RATE = 1e-2


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from accelerate.utils import set_seed, tqdm
    from peft import get_peft_model

    from sat_peft import SatConfig, SatLoss, save_adapter
    from sat_peft.backbones import create_backbone, resolve_data_config
    from sat_peft.baselines import BASELINES, TRAINED_BASELINES, localizers, needed_classifiers, save_trained
    from sat_peft.cpu import keep_freed_memory, set_cpu_threads
    from sat_peft.data.loaders import build_loaders
    from sat_peft.data.shots import sample_shots
    from sat_peft.data.splits import load_splits
    from sat_peft.evaluator import centre_box_accuracy, choose_centre_side, evaluate, resolve_threshold
    from sat_peft.parameters import count_parameters
    from sat_peft.report.gallery import draw_best_and_worst
    from sat_peft.report.page import write_report
    from sat_peft.report.records import BOOTSTRAP, measurement, write_gallery
    from sat_peft.report.tables import FIGURES, method_table, parameter_table
    from sat_peft.run import RunFolder, atomic_replacement, check_output
    from sat_peft.training import check_finite, create_optimizer, create_scheduler, endless

    start = time.perf_counter()
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
        set_cpu_threads(config.threads)
    say = accelerator.print
    # A threshold that cannot be is refused now and not after the training.
    resolve_threshold(config.threshold, None, PROTOCOL)
    output = config.output or Path("runs", f"few_shot-{datetime.now():%Y%m%d-%H%M%S}")
    if accelerator.is_main_process:
        check_output(output, overwrite=config.overwrite)

    # Data: the shots for training; validation boxes choose thresholds; test images are seen once, at the end.
    splits = load_splits(config.data, shots=config.shots, say=say)
    splits["train"] = sample_shots(splits["train"], config.shots, config.seed)
    class_names = splits["train"].features["label"].names

    # Every process augments its own images in its own way.
    set_seed(config.seed, device_specific=True)
    backbone = create_backbone(
        config.backbone, weights=config.weights, image_size=config.image_size, drop_path_rate=config.drop_path
    )
    default_init = "random" if getattr(backbone, "cls_token", None) is None else "class_token"
    model = get_peft_model(
        backbone,
        SatConfig(
            num_classes=len(class_names),
            num_spatial_blocks=config.num_spatial_blocks,
            tune=config.tune,
            head=config.head,
            token_init=config.token_init or default_init,
            r=config.lora_rank,
            lora_alpha=config.lora_rank,
            class_names=class_names,
        ),
    )
    loaders = build_loaders(
        splits,
        resolve_data_config(backbone),
        protocol=PROTOCOL,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        augmentation=config.augmentation,
        num_workers=config.num_workers,
        cache_train=len(splits["train"]) <= 1000,
        seed=config.seed,
    )
    train_loader, test_loader = accelerator.prepare(loaders.train, loaders.test)
    validation_loader = accelerator.prepare(loaders.validation) if loaders.validation else None
    parameters = count_parameters(model)
    say(f"\nTrained on {config.backbone}, which stays frozen:\n{parameter_table(parameters)}")
    say(f"Training images: {len(splits['train'])} ({config.shots} for each of {len(class_names)} classes), no boxes\n")

    settings = asdict(config) | {"output": str(output)}
    with RunFolder(output, settings, main_process=accelerator.is_main_process, overwrite=config.overwrite) as run:
        run.write_json("image_ids.json", splits["train"]["image_id"][:])
        run.write_json("parameters.json", asdict(parameters))

        def fit(name: str, module: torch.nn.Module, loss_terms, learning_rate: float) -> torch.nn.Module:
            """Trains what is trainable in `module`; `loss_terms(module, batch)` is a dict with the loss as `total`."""
            optimizer = create_optimizer(module, learning_rate=learning_rate, weight_decay=config.weight_decay)
            scheduler = create_scheduler(
                optimizer,
                config.schedule,
                steps=config.steps,
                warmup_steps=config.warmup_steps,
                num_processes=accelerator.num_processes,
            )
            module, optimizer, scheduler = accelerator.prepare(module, optimizer, scheduler)
            module.train()
            batches = endless(train_loader)
            for step in (bar := tqdm(range(1, config.steps + 1), desc=f"training {name}")):
                batch = next(batches)
                terms = loss_terms(module, batch)
                accelerator.backward(terms["total"])
                accelerator.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                learning_rate_of_step = scheduler.get_last_lr()[0]
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
                values = {key: value.item() for key, value in terms.items()}
                check_finite(values, step, learning_rate)
                run.log(method=name, step=step, learning_rate=learning_rate_of_step, **values)
                bar.set_postfix(loss=f"{values['total']:.3f}")
            return accelerator.unwrap_model(module.eval())

        def measure(method) -> tuple:
            """(test evaluation, validation evaluation or None): the threshold never comes from the test split."""
            validation = None
            if validation_loader is not None:
                validation = evaluate(method, validation_loader, accelerator, protocol=PROTOCOL)
            threshold = resolve_threshold(config.threshold, validation, PROTOCOL)
            settings = {"protocol": PROTOCOL, "threshold": threshold, "bootstrap": BOOTSTRAP}
            return evaluate(method, test_loader, accelerator, **settings), validation

        # SAT: classification + batch area + normalization, from image labels.
        criterion = SatLoss(area_target=config.area_target)
        model = fit("SAT", model, lambda m, b: criterion(m(b["images"]), b["labels"])._asdict(), config.learning_rate)
        if accelerator.is_main_process:
            save_adapter(model, run.path / "adapter")

        def sat_method(images, labels):
            output = model(images)
            return output.logits, output.maps

        sat, sat_validation = measure(sat_method)
        if accelerator.is_main_process:
            draw_best_and_worst(run.path / "examples.png", sat_method, loaders.test.dataset, sat, accelerator.device)
        write_gallery(run.path, lambda images, _: model(images), test_loader, sat, accelerator, protocol=PROTOCOL)

        # Baselines: other heads on the same frozen backbone, images and steps.
        backbone = model.unload()
        trained = {}
        for name in needed_classifiers(config.baselines):
            module = TRAINED_BASELINES[name](backbone, len(class_names))
            # TS-CAM has the head of SAT and its learning rate; a linear classifier learns with larger steps.
            rate = CAM_LEARNING_RATE if name == "cam" else config.learning_rate
            trained[name] = fit(
                BASELINES[name], module, lambda m, b: {"total": F.cross_entropy(m(b["images"]), b["labels"])}, rate
            )
            if accelerator.is_main_process:
                (run.path / "baselines").mkdir(exist_ok=True)
                with atomic_replacement(run.path / "baselines" / f"{name}.safetensors") as file:
                    save_trained(trained[name], file)
        evaluations = {"sat": sat}
        for name, method in localizers(config.baselines, trained).items():
            evaluations[name], _ = measure(method)

        measured = sat.num_with_boxes > 0
        methods, thresholds = {}, {}
        for name, evaluation in evaluations.items():
            methods[name] = {
                key: evaluation.result.summary[key] if measured or key == "top1_cls" else None for key in FIGURES
            }
            thresholds[name] = evaluation.result.threshold
        side = None
        if "centre_box" in config.baselines and measured and sat_validation and sat_validation.num_with_boxes:
            side = choose_centre_side(sat_validation.images, PROTOCOL)
            methods["centre_box"] = centre_box_accuracy(sat.images, side, PROTOCOL)

        adapter_bytes = sum(file.stat().st_size for file in (run.path / "adapter").glob("*.safetensors"))
        results = {
            "protocol": PROTOCOL,
            "threshold": sat.result.threshold,
            "threshold_source": sat.result.threshold_source,
            "trainable_parameters": parameters.trainable,
            "seconds": round(time.perf_counter() - start, 1),
            "methods": methods,
            "thresholds": thresholds,
            "centre_box_side": side,
            "test_images": sat.result.num_images,
            "adapter_bytes": adapter_bytes,
        }
        run.write_json("results.json", results)
        run.write_json("measurement.json", measurement(evaluations, methods, num_classes=len(class_names)))
    if accelerator.is_main_process:
        write_report(run.path)

    titles = {"sat": "SAT", **BASELINES, "centre_box": f"centre box, side {side}, classes of SAT"}
    say(f"\nTest split: {results['test_images']} images, {len(class_names)} classes, protocol {PROTOCOL}, percent")
    say(method_table({titles[name]: figures for name, figures in methods.items()}))
    if measured:
        chosen = ", ".join(f"{titles[name]} {threshold:g}" for name, threshold in thresholds.items())
        say(f"  Thresholds: {chosen} ({results['threshold_source']})")
    else:
        say("  Localisation: not measured (the test split has no boxes); examples.png shows the maps.")
    say(f"\nRun folder: {run.path}  (adapter {adapter_bytes / 1000:.0f} kB, {results['seconds']:.0f} s)")
    say(f"Look at {run.path / 'report.html'}, then see more of its figures:")
    say(f"  accelerate launch recipes/evaluate.py --run {run.path}")


if __name__ == "__main__":
    options = tyro.cli(Config, description=__doc__)
    try:
        main(options)
    except ValueError as error:
        from sat_peft.errors import UsageError

        if not isinstance(error, UsageError):
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; what the run wrote so far is readable in its folder")
