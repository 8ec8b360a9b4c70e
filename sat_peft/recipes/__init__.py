"""The training recipes. A wheel has them in this folder, where setup.cfg maps them; a checkout at its root, where this
file, which no wheel holds, looks for them.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "recipes")]
