"""From raw text to chunks of token ids. Read, clean, split into documents, hold out, tokenize, store, pack.

Nothing here knows a model. May import config, common and plugins.
"""
