"""Speed of the localisation evaluation, against a plain OpenCV loop and against the public implementations.

    python scripts/benchmark_evaluation.py
    python scripts/benchmark_evaluation.py --reference-sat SAT --reference-wsol wsolevaluation --json speed.json

SAT is a checkout of github.com/wpy1999/SAT (needs scikit-image), wsolevaluation one of
github.com/clovaai/wsolevaluation. All contestants score the same maps in turns; medians of processor time are compared,
so that other programs on the machine disturb as little as possible. Ratios of the same run are meaningful, maps per
second are this machine's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

# Maps that the slow contestants (the references, and the plain loop over 1000 thresholds) are given in a round.
FEW_MAPS = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--maps", type=int, default=96, help="maps per round (default: 96)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which medians are taken (default: 7)")
    parser.add_argument("--reference-sat", metavar="DIR", help="checkout of wpy1999/SAT")
    parser.add_argument("--reference-wsol", metavar="DIR", help="checkout of clovaai/wsolevaluation")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()

    import cv2

    cv2.setNumThreads(1)
    report = {"maps": arguments.maps, "rounds": arguments.rounds, "settings": {}}
    maps, boxes = make_maps(arguments.maps)
    for name, contestants in settings(arguments).items():
        report["settings"][name] = compete(name, contestants, maps, boxes, arguments.rounds)
    report["stages"] = {protocol: stages(protocol, maps) for protocol in ("sat", "wsol")}
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


def make_maps(count, seed=0):
    """Maps 14x14 of one to three blobs with some noise, and one or two boxes per image in 224 pixels."""
    import numpy as np

    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:14, :14]
    maps, boxes = [], []
    for _ in range(count):
        raw = 0.1 * generator.random((14, 14))
        for _ in range(generator.integers(1, 4)):
            centre, width = generator.uniform(2, 12, 2), generator.uniform(1, 3.5, 2)
            raw += np.exp(-(((x - centre[0]) / width[0]) ** 2) - ((y - centre[1]) / width[1]) ** 2)
        maps.append(raw.astype(np.float32))
        near = generator.integers(0, 110, (generator.integers(1, 3), 2))
        boxes.append(np.concatenate([near, near + generator.integers(40, 113, near.shape)], axis=1).astype(float))
    return np.stack(maps), boxes


def settings(arguments):
    """setting -> contestant -> function(maps, boxes) -> figures that all contestants of the setting must agree on."""
    import dataclasses

    import numpy as np

    from sat_peft.localization import get_protocol, score_maps

    sat_thresholds = list(get_protocol("sat").default_thresholds)
    wsol_thresholds = np.arange(0, 1, 0.001)
    single = dataclasses.replace(get_protocol("wsol"), multi_contour=False)

    def ours_sat(maps, boxes):
        return score_maps(maps, boxes, protocol="sat").per_threshold["gt_known"]

    def ours_single(maps, boxes):
        curves = score_maps(maps, boxes, protocol=single).per_threshold
        return [curves[name] for name in ("iou30", "iou50", "iou70")]

    def ours_multi(maps, boxes):
        curves = score_maps(maps, boxes, protocol="wsol").per_threshold
        return [curves[name] for name in ("multi_iou30", "multi_iou50", "multi_iou70")]

    found = {
        "sat, 18 thresholds": {
            "sat_peft": ours_sat,
            "plain loop": lambda maps, boxes: plain_sat(maps, boxes, sat_thresholds),
        },
        "wsol, 1000 thresholds, single contour": {
            "sat_peft": ours_single,
            "plain loop": lambda maps, boxes: plain_wsol(maps, boxes, wsol_thresholds, multi=False),
        },
        "wsol, 1000 thresholds, multi contour": {
            "sat_peft": ours_multi,
            "plain loop": lambda maps, boxes: plain_wsol(maps, boxes, wsol_thresholds, multi=True),
        },
    }
    if arguments.reference_sat:
        found["sat, 18 thresholds"]["SAT's evaluator.py"] = reference_sat(arguments.reference_sat, sat_thresholds)
    if arguments.reference_wsol:
        for name, multi in (("single", False), ("multi", True)):
            contestant = reference_wsol(arguments.reference_wsol, wsol_thresholds, multi)
            found[f"wsol, 1000 thresholds, {name} contour"]["wsolevaluation"] = contestant
    return found


def compete(name, contestants, maps, boxes, rounds):
    """Let the contestants score in turns; print and return maps per second and ratios. Unequal figures are an error."""
    import numpy as np

    print(f"\n{name}")
    agreed = {contestant: run(maps[:FEW_MAPS], boxes[:FEW_MAPS]) for contestant, run in contestants.items()}
    for contestant, figures in agreed.items():
        if not np.allclose(figures, agreed["sat_peft"], rtol=0, atol=1e-9):
            raise SystemExit(f"{name}: {contestant} and sat_peft disagree: {figures} and {agreed['sat_peft']}")
    seconds = {contestant: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant, run in contestants.items():
            count = len(maps) if contestant == "sat_peft" else min(len(maps), FEW_MAPS)
            start = time.process_time()
            run(maps[:count], boxes[:count])
            seconds[contestant].append((time.process_time() - start) / count)
    medians = {contestant: statistics.median(values) for contestant, values in seconds.items()}
    result = {}
    for contestant, median in medians.items():
        result[contestant] = {"maps_per_second": 1 / median, "times_slower": median / medians["sat_peft"]}
        print(
            f"  {contestant:20s} {1 / median:9.1f} maps/s   {median / medians['sat_peft']:7.1f} x the time of sat_peft"
        )
    print("  all figures equal")
    return result


def plain_iou(box, truth):
    """The best IoU of one box with the true ones, both corners counted as pixels of the box."""
    best = 0.0
    for other in truth:
        width = min(box[2], other[2]) - max(box[0], other[0]) + 1
        height = min(box[3], other[3]) - max(box[1], other[1]) + 1
        overlap = max(0, width) * max(0, height)
        area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
        best = max(best, overlap / (area - overlap))
    return best


def plain_sat(maps, boxes, thresholds):
    """`sat`, one threshold at a time."""
    import cv2
    import numpy as np

    correct = np.zeros(len(thresholds))
    for raw, truth in zip(maps, boxes, strict=True):
        scores = cv2.resize((raw - raw.min()) / (raw.max() - raw.min() + 1e-5), (224, 224))
        for index, threshold in enumerate(thresholds):
            count, _, stats, _ = cv2.connectedComponentsWithStats((scores > threshold).astype(np.uint8), connectivity=8)
            box = [0, 0, 224, 224]
            if count > 1:
                x, y, width, height, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
                box = [x, y, x + width, y + height]
            correct[index] += plain_iou(box, truth) >= 0.5
    return 100 * correct / len(maps)


def plain_wsol(maps, boxes, thresholds, multi):
    """`wsol`, one threshold at a time."""
    import cv2
    import numpy as np

    correct = np.zeros((3, len(thresholds)))
    for raw, truth in zip(maps, boxes, strict=True):
        image = (to_scores(raw).astype(float) * 255).astype(np.uint8)
        for index, threshold in enumerate(thresholds):
            foreground = (image > int(threshold * image.max())).astype(np.uint8)
            contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            if contours and not multi:
                contours = [max(contours, key=cv2.contourArea)]
            best = 0.0 if contours else plain_iou([0, 0, 0, 0], truth)
            for contour in contours:
                x, y, width, height = cv2.boundingRect(contour)
                best = max(best, plain_iou([x, y, min(x + width, 223), min(y + height, 223)], truth))
            correct[:, index] += [best >= level for level in (0.3, 0.5, 0.7)]
    return 100 * correct / len(maps)


def to_scores(raw):
    """Cubic to 224, then min-max."""
    import cv2

    scores = cv2.resize(raw, (224, 224), interpolation=cv2.INTER_CUBIC)
    scores -= scores.min()
    return scores / scores.max()


def reference_sat(folder, thresholds):
    """The evaluation loop of SAT's evaluator.py, fed with maps instead of a network. GT-known Loc per threshold."""
    import contextlib
    import io
    from types import SimpleNamespace

    import numpy as np
    import torch

    from benchmark.reference import import_checkout

    evaluator = import_checkout(folder, "evaluator", {"Model": {}, "Model.SAT": {}, "DataLoader": {}})
    arguments = SimpleNamespace(evaluate=True, tencrop=False, root="CUB_200_2011", crop_size=224, save_img_flag=False)

    class Network:
        def __init__(self, maps):
            self.maps = torch.from_numpy(np.asarray(maps))

        def __call__(self, x, label, phase):
            return torch.zeros(len(x), 10), self.maps[x]

        def eval(self):
            pass

    def score(maps, boxes, swept):
        rows = torch.arange(len(maps))
        batch = (rows, rows, torch.zeros(len(maps), dtype=torch.long), boxes, [""] * len(maps))
        arguments.threshold = swept
        with contextlib.redirect_stdout(io.StringIO()):
            return evaluator.val_loc_one_epoch(arguments, [batch], Network(maps))[1]

    def run(maps, boxes):
        # The loop asks for CUDA by name; the maps are on the processor.
        moved, torch.Tensor.cuda = torch.Tensor.cuda, lambda tensor: tensor
        try:
            if len(maps) <= FEW_MAPS and not run.checked:
                run.checked = True
                return [score(maps, boxes, [threshold]) for threshold in thresholds]
            return score(maps, boxes, thresholds)
        finally:
            torch.Tensor.cuda = moved

    # The loop returns its best threshold only, so the comparison of figures (the first call) runs it per threshold.
    run.checked = False
    return run


def reference_wsol(folder, thresholds, multi):
    """wsolevaluation's BoxEvaluator. Accuracy at IoU 0.3, 0.5 and 0.7 per threshold."""
    import numpy as np

    from benchmark.reference import import_checkout

    # The code is older than numpy 1.24, which removed these names of Python's own types.
    for name, kind in (("float", float), ("int", int)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    loaders = ("configure_metadata", "get_image_ids", "get_bounding_boxes", "get_image_sizes", "get_mask_paths")
    evaluation = import_checkout(
        folder, "evaluation", {"config": {"str2bool": bool}, "data_loaders": dict.fromkeys(loaders)}
    )

    def run(maps, boxes):
        evaluator = evaluation.BoxEvaluator.__new__(evaluation.BoxEvaluator)
        evaluator.cam_threshold_list, evaluator.iou_threshold_list = list(thresholds), [30, 50, 70]
        evaluator.multi_contour_eval, evaluator.cnt = multi, 0
        evaluator.num_correct = {level: np.zeros(len(thresholds)) for level in (30, 50, 70)}
        evaluator.gt_bboxes = dict(enumerate(boxes))
        for index, raw in enumerate(maps):
            evaluator.accumulate(to_scores(raw).astype(float), index)
        return [100 * evaluator.num_correct[level] / evaluator.cnt for level in (30, 50, 70)]

    return run


def stages(protocol, maps):
    """Shares of the time that scoring spends in its stages, from Python's profiler; printed."""
    import cProfile
    import pstats

    from sat_peft.localization import score_maps

    profiler = cProfile.Profile()
    profiler.runcall(score_maps, maps, [[[0, 0, 100, 100]]] * len(maps), protocol=protocol)
    rows = pstats.Stats(profiler).stats
    total = max(cumulative for _, _, _, cumulative, _ in rows.values())
    shares = {}
    for stage, function in {
        "resize and normalise": "score_map",
        "foreground levels": "levels",
        "basins": "find_basins",
        "sizes of basins": ("pixel_counts", "twice_polygon_areas"),
        "extents of basins": ("_extents", "_column_stretches"),
        "passes between basins": "_passes",
        "join basins": "_join",
        "IoU": "best_iou",
        "OpenCV where undecided": "largest_contour",
    }.items():
        functions = (function,) if isinstance(function, str) else function
        seconds = [row[3] for (file, _, name), row in rows.items() if name in functions and "localization" in file]
        shares[stage] = sum(seconds) / total
    shares["everything else"] = 1 - sum(shares.values())
    print(f"\nwhere the time goes under {protocol} (all contours under wsol)")
    for stage, share in shares.items():
        print(f"  {stage:24s} {100 * share:5.1f} %")
    return shares


if __name__ == "__main__":
    main()
