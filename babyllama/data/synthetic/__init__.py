"""The embedded corpus: a probabilistic grammar of simple English whose text has an exactly known probability.

`generator` draws documents and gives their probability, `grammar` is the mechanism, `rules` and `lexicon` the language,
`pairs` its minimal pairs. Nothing here imports from another room. What other rooms use is handed on here.
"""

from babyllama.data.synthetic.generator import (
    SYNTHETIC_VERSION,
    SyntheticDocument,
    document_nats,
    entropy_per_byte,
    generate_documents,
    held_out,
    minimal_pairs,
    read_unit,
    sample_prompts,
    write_unit,
)

__all__ = [
    "SYNTHETIC_VERSION",
    "SyntheticDocument",
    "document_nats",
    "entropy_per_byte",
    "generate_documents",
    "held_out",
    "minimal_pairs",
    "read_unit",
    "sample_prompts",
    "write_unit",
]
