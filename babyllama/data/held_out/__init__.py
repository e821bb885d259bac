"""Held-out text is text that a run was never trained on: what a run folder keeps of it, and which documents are scored.

This folder imports from data, config and common.
"""
