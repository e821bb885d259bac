"""From raw text to chunks of token ids: read, clean, split into documents, hold out, tokenize, store, pack.

Nothing here knows a model. This room imports from config, common and plugins.
"""
