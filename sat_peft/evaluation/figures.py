"""What is measured, and how tables call it. Nothing heavy is imported here."""

# Key in results.json and in the summary of a `LocalizationResult` -> title; percentages, in the order of the tables.
FIGURES = {
    "gt_known": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "top1_cls": "Top-1 Cls",
    "mean_iou": "mean IoU",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
}
# Those that a run tells of every method.
MAIN_FIGURES = ("gt_known", "top1_loc", "top5_loc", "top1_cls")
# Those that images without true boxes have.
CLASSIFICATION = ("top1_cls", "top5_cls")
