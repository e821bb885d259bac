"""`main.py babylm score|finetune|submit|check`: the BabyLM challenge from a run folder to a file that validates."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.command import add_debug_flag, at_least
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.config.flags import add_config_flags, config_from_args

if TYPE_CHECKING:
    from babyllama.babylm.data_folder import DataFolder
    from babyllama.babylm.rules import Rules, Track
    from babyllama.babylm.tree import Tree

RULES_VARIABLE = "BABYLLAMA_BABYLM_RULES"
SHOWN = 10  # problems printed before the rest is counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="score|finetune|submit|check")
    _add_score(actions.add_parser("score", help="score the model and all its chck_* on the tasks whose data is there"))
    _add_finetune(actions.add_parser("finetune", help="fine-tune on the seven GLUE tasks and predict their validation"))
    _add_submit(actions.add_parser("submit", help="collate and validate the file that is uploaded; form and card"))
    check = actions.add_parser("check", help="before a training: what of the recipe would cost points")
    add_config_flags(check)
    _add_rules(check)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rules",
        default=os.environ.get(RULES_VARIABLE, "2026"),
        help=f"2025, 2026 or a rules file of your own (default: ${RULES_VARIABLE}, else 2026)",
    )
    parser.add_argument("--track", default="strict-small", help="strict-small or strict (default: %(default)s)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder with its chck_* folders, or any model folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with full_eval and fast_eval")
    parser.add_argument("--output", default="results", metavar="DIR", help="submission tree (default: %(default)s)")
    _add_rules(parser)
    add_debug_flag(parser)


def _add_score(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--tasks", metavar="A,B", help="only these: blimp, ewok, entity_tracking, reading, aoa ...")
    parser.add_argument("--fast-only", action="store_true", help="only the fast sets; no full sets and no AoA")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--seed", type=int, default=0, help="seed of ties under the rules of 2026")


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--tasks", metavar="A,B", help="only these: boolq, mnli, mrpc, multirc, qqp, rte, wsc")
    parser.add_argument(
        "--seeds", default="42", metavar="A,B", help="the first goes into the tree (default: %(default)s)"
    )
    parser.add_argument(
        "--pooling",
        choices=["last", "first"],
        default="last",
        help="last: left padding, as 2026; first: as the official scripts of 2025 (default: %(default)s)",
    )
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--batch-size", type=at_least(1), help="default: 32 (boolq, multirc 16)")
    parser.add_argument("--epochs", type=at_least(1), help="default: 10 (wsc 30)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--license", metavar="ID", help="licence of the model, written into its card (mit, cc-by-4.0)")
    parser.add_argument(
        "--fill-missing",
        action="store_true",
        help="repeat the last checkpoint for those that the run did not reach; told in log and form",
    )


def run(args: argparse.Namespace, prepare: Callable[[Any], Any] | None = None) -> int:
    """Run a sub-command.

    Args:
        args: Parsed flags.
        prepare: `train.prepare_data`, which `check` asks for the text's words.
    """
    from babyllama.babylm.rules import load_rules

    rules = load_rules(args.rules)
    track = rules.track(args.track)
    if args.action == "check":
        return _check(args, rules, track, prepare)
    from babyllama.babylm.data_folder import DataFolder
    from babyllama.babylm.tree import Tree, model_name
    from babyllama.common.disk_space import check_output_folder

    check_output_folder(Path(args.output).expanduser())
    tree, data = Tree(args.output, args.run, rules, track), DataFolder(args.data, rules)
    if model_name(tree.run) != tree.run.name:
        say(f"{tree.run.name}: its results go to {tree.root}: the challenge's scripts cut a name at its last dot")
    actions = {"score": _score, "finetune": _finetune, "submit": _submit}
    return actions[args.action](args, tree, data)


def _check(args: argparse.Namespace, rules: Rules, track: Track, prepare: Callable[[Any], Any] | None) -> int:
    """Say what of a recipe costs points; exit code 1 where something does."""
    from babyllama.babylm.check import check

    assert prepare is not None, "main.py hands in train.prepare_data"
    if args.config is None:
        raise ConfigError("babylm check: give --config, e.g. config/babylm-strict-small.yaml")
    config = config_from_args(args)
    found = check(config, prepare(config), rules, track)
    for advice in found:
        say(f"{'costs points' if advice.costs else 'note'}: {advice.text}")
    return int(any(advice.costs for advice in found))


def _score(args: argparse.Namespace, tree: Tree, data: DataFolder) -> int:
    from babyllama.babylm.score import beyond_training, score, wanted_tasks

    names = wanted_tasks(data.rules, args.tasks)
    missing, failed = score(tree, data, names, fast_only=args.fast_only, device=args.device, seed=args.seed)
    for line in beyond_training(tree):
        say(f"note: {line}")
    _show_board(tree, missing)
    for line in failed:
        say(f"not scored: {line}")
    return int(bool(failed))


def _show_board(tree: Tree, missing: list[str]) -> None:
    """Print the board's table and the checkpoints', say what is missing, write the results, renew the run's page."""
    from babyllama.babylm import board
    from babyllama.config.run_layout import BABYLM_RESULTS, TRAINING_METRICS
    from babyllama.pages.babylm_tables import babylm_tables
    from babyllama.pages.run_page import write_run_report
    from babyllama.pages.terminal import print_tables

    found = board.results(tree)
    print_tables(babylm_tables(found))
    for line in missing:
        say(f"missing: {line}")
    if found["missing_checkpoints"]:
        say(f"missing checkpoints of {tree.track.name}: {', '.join(found['missing_checkpoints'])}")
    written = board.save(tree)
    if (tree.run / TRAINING_METRICS).is_file() and (tree.run / BABYLM_RESULTS).is_file():
        write_run_report(tree.run)
    say(f"written: {written}")


def _finetune(args: argparse.Namespace, tree: Tree, data: DataFolder) -> int:
    from babyllama.babylm.glue import fine_tune_all, seeds_of, wanted_tasks
    from babyllama.babylm.tasks.finetuning import Recipe

    recipe = Recipe(lr=args.lr, batch_size=args.batch_size, epochs=args.epochs, pooling=args.pooling)
    tasks = wanted_tasks(data.rules, args.tasks)
    missing = fine_tune_all(tree, data, tasks, recipe, seeds_of(args.seeds), args.device)
    _show_board(tree, missing)
    return 0


def _submit(args: argparse.Namespace, tree: Tree, data: DataFolder) -> int:
    """Figure of AoA, checks, collation, checks of the collated file, form and card; exit code 2 for a wrong cell."""
    from babyllama.babylm import submission, validator
    from babyllama.babylm.form import write_form
    from babyllama.babylm.score import write_acquisition
    from babyllama.babylm.tree import COLLATED
    from babyllama.common.errors import DataError

    # 1. Checkpoints that stand in for missing ones, and the figure of the age of acquisition.
    (tree.root / COLLATED).unlink(missing_ok=True)  # of an earlier call: what is refused now must not be uploaded
    submission.remove_filled(tree)
    if args.fill_missing:
        submission.fill_missing(tree)
    if any(task.kind == "aoa" for task in data.rules.tasks.values()):
        found = write_acquisition(tree, data)
        if found is not None:
            say(f"AoA: {100 * found['aoa']:.2f} over {found['num_words']} words (p = {found['p_value']})")
    # 2. Every file against the rules. A wrong cell ends it; a missing one too where the rules are strict.
    findings = validator.check_tree(tree, data)
    wrong = [finding.text for finding in findings if not finding.missing]
    absent = [finding.text for finding in findings if finding.missing]
    if wrong or (absent and data.rules.collation == "strict"):
        raise DataError("\n".join(_first(wrong or absent)))
    for line in _first(absent):
        say(f"missing, counts as 0: {line}")
    # 3. The file that is uploaded, checked once more as the leaderboard does.
    content = submission.collate(tree, data)
    path = submission.write_collated(tree, content)
    problems = validator.check_collated(str(path), content, data.rules, tree.track)
    if problems:
        path.unlink()
        raise DataError("\n".join(_first(problems)))
    # 4. Form and model card.
    form = write_form(tree)
    if args.license:
        submission.set_license(tree.run / "README.md", args.license)
    for line in validator.check_card(tree.run / "README.md"):
        say(f"model card: {line}")
    _show_board(tree, [])
    say(f"upload: {path} ({path.stat().st_size / 1e6:.1f} MB); fill in the form from {form}")
    return 0


def _first(lines: list[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])
