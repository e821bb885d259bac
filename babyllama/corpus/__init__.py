"""A workbench for text: what a corpus holds, what stands in it twice, what of an evaluation stands in it.

Looks at text before any training. May import data, models, pages, config and common.
"""
