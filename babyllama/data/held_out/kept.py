"""What a run folder keeps of the run's text.

A run keeps the documents that it held out (`held_out.jsonl.gz`, up to 20 MB of text), those that `data.test` set aside
(`test.jsonl.gz`, as many) and a hash of every document that it was trained on or held out (`text_hashes.npz`).
A corpus changes: a file is added, the split falls elsewhere, and a split made anew would hold out what the model has
seen. What is scored as held out is therefore what was kept, and a text of any other origin can be asked for documents
that the run was trained on.

A document's hash is BLAKE2b of its token ids under the run's tokenizer, which is lossless: equal hashes, equal text.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from babyllama.common.files import atomic_path, to_json
from babyllama.config.run_layout import HELD_OUT_TEXT, TEST_TEXT, TEXT_HASHES
from babyllama.data.documents import Document
from babyllama.data.splits import HELD_OUT_BYTES
from babyllama.data.token_store import document_hashes, hash_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.data.prepared import PreparedData


@dataclass
class KeptText:
    """What a run folder tells of the run's text.

    Attributes:
        trained: (D,) sorted uint64, hashes of the training documents.
        held_out: (H,) uint64, hashes of the held-out documents in their order.
        documents: The held-out documents; None where they were more than 20 MB.
        test: The documents that were set aside; None where there are none or more than 20 MB.
    """

    trained: np.ndarray
    held_out: np.ndarray
    documents: list[Document] | None = None
    test: list[Document] | None = None


def text_hashes(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """Hash texts as `document_hashes` hashes the documents of a run with this tokenizer; (D,) uint64."""
    from babyllama.data.tokenizer import encode_documents

    found = (hash_ids(np.asarray(ids)) for ids in encode_documents(tokenizer, texts))
    return np.fromiter(found, np.uint64, len(texts))


def keep_text(run_dir: Path, data: PreparedData) -> None:
    """Write what was held out and set aside, and hashes of what was trained on or held out, into a run folder.

    Args:
        run_dir: The run folder.
        data: The prepared text.
    """
    with atomic_path(run_dir / TEXT_HASHES) as temporary, temporary.open("wb") as handle:
        np.savez(handle, trained=np.unique(document_hashes(data.train)), held_out=document_hashes(data.valid))
    _write(run_dir / HELD_OUT_TEXT, data.held_out_documents)
    _write(run_dir / TEST_TEXT, data.test_documents)


def _write(path: Path, documents: Sequence[Document]) -> None:
    """Write documents, or remove what an earlier start wrote where there are none or too many."""
    if not 0 < sum(len(document.text.encode()) for document in documents) <= HELD_OUT_BYTES:
        path.unlink(missing_ok=True)
        return
    rows = [{"domain": document.domain, "source": document.source, "text": document.text} for document in documents]
    lines = "".join(to_json(row, indent=None) + "\n" for row in rows)
    with atomic_path(path) as temporary:
        # A file's name whose bytes are not UTF-8 holds lone surrogates: written as JSON spells them.
        stored = lines.encode("utf-8", "backslashreplace")
        temporary.write_bytes(gzip.compress(stored, compresslevel=6, mtime=0))


def kept_text(run_dir: Path) -> KeptText | None:
    """Read what `keep_text` wrote; None where it is absent (an older run, a foreign folder) or damaged."""
    try:
        with np.load(run_dir / TEXT_HASHES, allow_pickle=False) as found:
            kept = KeptText(found["trained"], found["held_out"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    kept.documents, kept.test = _read(run_dir / HELD_OUT_TEXT), _read(run_dir / TEST_TEXT)
    return kept


def _read(path: Path) -> list[Document] | None:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().removesuffix("\n").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return [Document(row["text"], row["domain"], row["source"]) for row in rows]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
