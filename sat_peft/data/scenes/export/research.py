"""The writers of the layouts of research data sets, by the name of the source that reads them and its variants."""

from __future__ import annotations

from collections.abc import Callable

from sat_peft.data.scenes.export.cub import write_cub
from sat_peft.data.scenes.export.fgvc_aircraft import write_fgvc_aircraft
from sat_peft.data.scenes.export.ilsvrc import write_ilsvrc
from sat_peft.data.scenes.export.sat_lists import write_sat_birds, write_sat_cars, write_sat_imagenet
from sat_peft.data.scenes.export.stanford import (
    write_stanford_cars,
    write_stanford_cars_one_file,
    write_stanford_dogs,
)
from sat_peft.data.scenes.export.wsolevaluation import write_openimages30k, write_wsol_metadata

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
