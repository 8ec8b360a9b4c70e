# The public names, once for type checkers and for `lazy_loader`, which reads them from here.
from .localization import PROTOCOLS as PROTOCOLS
from .localization import LocalizationAccumulator as LocalizationAccumulator
from .localization import LocalizationResult as LocalizationResult
from .localization import choose_threshold as choose_threshold
from .localization import get_protocol as get_protocol
from .localization import localize as localize
from .localization import score_maps as score_maps
from .prediction.found import Localization as Localization
from .prediction.localizer import Localizer as Localizer
from .training.losses import SatLoss as SatLoss
from .training.losses import SatLossTerms as SatLossTerms
from .tuner import FrozenTokens as FrozenTokens
from .tuner import SatConfig as SatConfig
from .tuner import SatModel as SatModel
from .tuner import SatOutput as SatOutput
from .tuner import calibrate_masks as calibrate_masks
from .tuner import fit_class_readout as fit_class_readout
from .tuner import keep_frozen_tokens as keep_frozen_tokens
from .tuner import load_adapter as load_adapter
from .tuner import load_reference_weights as load_reference_weights
from .tuner import save_adapter as save_adapter

__version__: str
