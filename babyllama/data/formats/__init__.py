"""Formats of text files that are more than lines: how each becomes documents.

May import common and data's own words and documents.
"""
