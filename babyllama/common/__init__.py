"""Errors, console, files, cache folders, processes: what every room needs and what knows no language model.

This room imports nothing of BabyLlama but its version.
"""
