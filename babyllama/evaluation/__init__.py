"""One checkpoint: each measure is a module whose head gives numerator, denominator, exclusions and source.

This room imports from data, models, pages, config, common and plugins, never from training.
"""
