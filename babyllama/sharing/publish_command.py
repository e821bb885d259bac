"""`publish RUN org/name`: a finished run on the Hugging Face hub, its milestones as branches.

python main.py publish models/Llama-10M my-lab/llama-10m --dry-run     list what would leave this machine
python main.py publish models/Llama-10M my-lab/llama-10m               private, and the same command goes on
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common.console import say
from babyllama.common.errors import CheckpointError
from babyllama.common.units import human_bytes
from babyllama.pages.tables import TableData, print_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyllama.sharing.hub_files import Branch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run_dir", metavar="RUN", help="a finished run folder")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the repository; it is made where it is not there")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--no-milestones", action="store_true", help="only the final model, no chck_* branches")
    parser.add_argument("--dry-run", action="store_true", help="list what would be published; needs no network")


def run(args: argparse.Namespace) -> int:
    """Publish a run, or list what would be published.

    Raises:
        CheckpointError: The folder holds no whole model.
        ConfigError: The name is none, or the token may not write there.
        HubError: The hub cannot be reached.
    """
    from babyllama.sharing.hub import Hub, publish_branches
    from babyllama.sharing.hub_files import branches, left_out

    run_dir = Path(args.run_dir).expanduser()
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir}: no such run folder")
    hub = Hub(args.repo_id)
    wanted = branches(run_dir, args.repo_id, milestones=not args.no_milestones)
    for name in [] if args.no_milestones else left_out(run_dir):
        say(f"{name}: not published, it has no milestone.json")
    if args.dry_run:
        list_branches(wanted)
        return 0
    url = hub.create(private=not args.public)
    uploaded = publish_branches(hub, wanted, say)
    say(f"{url}: {uploaded} files uploaded, {len(wanted)} branches, {'private' if hub.is_private() else 'public'}")
    return 0


def list_branches(wanted: Sequence[Branch]) -> None:
    """Print every branch with its files and sizes."""
    for branch in wanted:
        rows = tuple((file.name, human_bytes(file.size)) for file in branch.files)
        title = f"{branch.name}: {len(branch.files)} files, {human_bytes(branch.size)}"
        print_tables([TableData(title, ("file", "size"), rows)])
    total = human_bytes(sum(branch.size for branch in wanted))
    say(f"{len(wanted)} branches, {total} at most; nothing was sent (--dry-run)")
