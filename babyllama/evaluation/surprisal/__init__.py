"""Surprisal of words, regions and texts in bits: the measure, and the command that reads and writes tables.

A part of the evaluation room, with its imports: data, models, pages, config, common and plugins.
"""
