"""The BabyLM challenge: its tasks, its word ledger, its submission; the rules of each year are data files in `rules/`.

`tasks/` scores one model on one task, `score` walks over tasks and checkpoints, `submission` and `validator` make and
check what is uploaded, `ledger` and `check` look after the word budget. May import every room below it.
"""
