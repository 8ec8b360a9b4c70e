"""Prediction on many image files: found, localised batch by batch, and left in a folder that can be continued."""

from sat_peft.prediction.folder import check_prediction_folder
from sat_peft.prediction.inputs import (
    DataSetImages,
    ImageFiles,
    data_set_images,
    data_set_labels,
    find_images,
    folder_labels,
    known_folder_labels,
)
from sat_peft.prediction.predict import PredictionSummary, predict

__all__ = [
    "DataSetImages",
    "ImageFiles",
    "PredictionSummary",
    "check_prediction_folder",
    "data_set_images",
    "data_set_labels",
    "find_images",
    "folder_labels",
    "known_folder_labels",
    "predict",
]
