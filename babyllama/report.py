"""stub being written"""

from __future__ import annotations


def write_evaluation_report(*a: object) -> None: ...
def write_run_report(*a: object) -> None: ...
