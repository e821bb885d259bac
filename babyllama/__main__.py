"""The command `babyllama`, also `python -m babyllama` and `torchrun -m babyllama`: main.py of a clone, from anywhere.

The root files import each other by their plain names, so their folder comes first on the path of this process.
"""

import sys

from babyllama.app import FOLDER
from babyllama.common.command import run_command


def main() -> int:
    """Run main.py's command line; returns the exit code."""
    sys.path.insert(0, str(FOLDER))
    from main import main as command_line

    return run_command(command_line)


if __name__ == "__main__":
    sys.exit(main())
