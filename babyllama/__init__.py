"""BabyLlama: train a small language model from scratch and say honestly how good it is.

The root files (main.py, train.py, evaluate.py, ...) are the pipeline; this package holds the parts they are
built from. No part knows the pipeline: imports point from the root files down to here, never back.
"""

import os
import sys

__version__ = "0.1.0"

# How long OpenMP's threads spin for each other before they sleep; GNU's libgomp reads it once, when torch is loaded, so
# it is set before anything of ours can load it, and what the user set stays. Beside another busy process its own
# 300,000 (some milliseconds) cost a training most of its speed (docs/performance.md, tests/speed/busy_speed.py).
SPINS = "30000"
if sys.platform == "linux" and "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
