"""From raw text to chunks of token ids: read, clean, split into documents, hold out, tokenize, store, pack.

Nothing here knows a model; of models it takes only how a tokenizer is made to read whole texts. This room imports
from models, config, common and plugins.
"""
