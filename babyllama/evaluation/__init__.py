"""One checkpoint: each measure is a module whose head gives numerator, denominator, exclusions and source.

May import models, data, config and common.
"""
