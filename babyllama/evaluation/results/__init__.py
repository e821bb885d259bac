"""The results of one evaluation: how its tasks are run, and the files that hold them.

This folder imports from evaluation, config, common and plugins.
"""
