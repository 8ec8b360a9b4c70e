"""The run folder: written while a recipe runs, found again afterwards."""
