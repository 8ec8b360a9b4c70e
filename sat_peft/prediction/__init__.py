"""Prediction on many image files: found, localised batch by batch, and left in a folder that can be continued."""
