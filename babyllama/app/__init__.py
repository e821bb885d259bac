"""The root files as modules of the package: `babyllama.app.train`, `babyllama.app.evaluate` and so on.

In a wheel they lie in this folder; in a clone they lie in the project's root, beside the package, to which this
package's path is extended. Either way nothing of ours is called `train` or `evaluate` at the top of site-packages,
where HuggingFace's package `evaluate` lives.
"""

from pathlib import Path

if not (Path(__file__).parent / "main.py").is_file():
    __path__.append(str(Path(__file__).resolve().parents[2]))

FOLDER = Path(__path__[-1])
