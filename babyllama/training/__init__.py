"""One run: HuggingFace's Trainer with our optimizer and callbacks, and its folder: checkpoints, lock, resume, record.

This room imports from data, models, pages, config, common and plugins, never from evaluation.
"""
