"""Which language and script a text is in, and how many bytes that language needs for what English says in one.

Pure functions and one data file; imports nothing of the other rooms but common.
"""
