"""The toys that trainings are attacked with."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / 'engine'))
