"""Writing with a model: `generate` in the terminal, and `play`, a page on this machine that writes as you watch.

This room imports from evaluation, data, models, pages, config, common and plugins.
"""
