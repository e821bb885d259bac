"""Next tokens from a model, quickly: a lean step with a preallocated cache, and how a token is chosen.

This room imports from the room around it, config and common.
"""
