"""The writers of the layouts of research data sets, by the name of the source that reads them and its variants."""

from __future__ import annotations

from collections.abc import Callable

from scene_writers.cub import write_cub
from scene_writers.fgvc_aircraft import write_fgvc_aircraft
from scene_writers.ilsvrc import write_ilsvrc
from scene_writers.sat_lists import write_sat_birds, write_sat_cars, write_sat_imagenet
from scene_writers.stanford import (
    write_stanford_cars,
    write_stanford_cars_one_file,
    write_stanford_dogs,
)
from scene_writers.wsolevaluation import write_openimages30k, write_wsol_metadata

RESEARCH_WRITERS: dict[str, Callable] = {
    "cub": write_cub,
    "ilsvrc": write_ilsvrc,
    "stanford_dogs": write_stanford_dogs,
    "stanford_cars": write_stanford_cars,
    "stanford_cars_one_file": write_stanford_cars_one_file,
    "fgvc_aircraft": write_fgvc_aircraft,
    "openimages30k": write_openimages30k,
    "wsol_metadata": write_wsol_metadata,
    "reference_lists_birds": write_sat_birds,
    "reference_lists_imagenet": write_sat_imagenet,
    "reference_lists_cars": write_sat_cars,
}
