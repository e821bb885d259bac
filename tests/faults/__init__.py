"""Faults put into real trainings: killed processes, damaged files, full disks, hostile input.

    python -m tests.faults --trials 100

prints a table of faults, trials and passes. A trial passes where the resumed run ends with weights bit-identical to
those of the run that was never disturbed, or where the fault is refused by the documented exit code and a line that
names the file; and where the same command given once more says that all is done and writes nothing. Children are
forked from a process that has imported torch and done nothing with it: a trial takes about a second instead of ten.
"""
