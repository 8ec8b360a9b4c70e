"""What the metrics share: maps come in as predictions, and what may be left out is a configuration of its own.

Modules import this one and not the class: `evaluate` takes the first metric that it finds in a module for its own.
"""

import datasets
import evaluate

from sat_peft.errors import unknown_choice

MAPS = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
MASKS = datasets.Sequence(datasets.Sequence(datasets.Value("bool")))
BOXES = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))

CHOE_2020 = """
@inproceedings{choe2020evaluating,
  title={Evaluating Weakly Supervised Object Localization Methods Right},
  author={Choe, Junsuk and Oh, Seong Joon and Lee, Seungho and Chun, Sanghyuk and Akata, Zeynep and Shim, Hyunjung},
  booktitle={CVPR},
  year={2020}
}
"""
WSOLEVALUATION = ("https://arxiv.org/abs/2001.07437", "https://github.com/clovaai/wsolevaluation")


class MapMetric(evaluate.Metric):
    """A metric of maps; its docstring is its description.

    Args:
        inputs: arguments, results and examples, as `evaluate` shows them.
        cited: BibTeX of where it comes from.
        urls: addresses of where it comes from.
        columns: configuration -> inputs of `compute`; `evaluate` asks for every one that a configuration lists.
    """

    inputs: str
    cited: str
    urls: tuple[str, ...]
    columns: dict[str, dict]

    def _info(self):
        if self.config_name not in self.columns:
            raise unknown_choice("configuration", self.config_name, self.columns)
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation=self.cited,
            inputs_description=self.inputs,
            features=datasets.Features(self.columns[self.config_name]),
            reference_urls=list(self.urls),
        )
