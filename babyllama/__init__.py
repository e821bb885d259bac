"""BabyLlama: train a small language model from scratch and say honestly how good it is.

The root files (main.py, train.py, evaluate.py, ...) are the pipeline; this package holds the parts they are
built from. No part knows the pipeline: imports point from the root files down to here, never back.
"""

__version__ = "0.1.0"
