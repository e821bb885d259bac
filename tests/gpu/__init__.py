"""What only a GPU can show, as one command for anyone who has one.

    python -m tests.gpu all
    python -m tests.gpu check --minutes 8 --out gpu_results
    python -m tests.gpu all --device cpu --quick

Every row is a child process (TF32, the allocator and compiled code belong to a process) with a time limit of its own.
Its result is appended to OUT/rows.jsonl when it is done, so that a command cut short loses one row; the next command
with the same OUT goes on with a table of all rows. OUT/gpu.md is written at the end: the environment, the checks, the
speeds, ready for docs/performance.md. The exit code is 1 where a row failed.

    check    the arithmetic: head, gradients, optimizers, curves, synchronisations, recompiles, scores
    faults   killed and resumed, out of memory, weights that are not finite
    speed    tokens/s against the stock Trainer, a profile of five steps, minimal pairs, generation
    train    whole commands, from text to report

`--device cpu --quick` runs the same code in small and is part of the tests. Rows that mean something only on CUDA are
then listed as skipped, with the reason.
"""
