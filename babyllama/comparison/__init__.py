"""Several runs: is a difference more than chance?

This room imports from evaluation, data, models, pages, config, common and plugins.
"""
