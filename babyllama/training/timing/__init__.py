"""How long a training's steps take, and what follows from it: rates, warnings, the intervals of saves and evaluations.

It imports what the training room may import.
"""
