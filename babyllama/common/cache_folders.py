"""Cache folders: where they lie, what they are named after, and how their seal is checked at every start."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from babyllama.common.file_hashes import LARGE_BYTES, are_as_remembered, remember, wait_until_settled
from babyllama.common.files import NotWhole, check_files, read_manifest, seal

STORE_VERSION = 2
STORE, CHECKED = "store.json", "checked.json"
INDUCTOR, TORCHS = "TORCHINDUCTOR_CACHE_DIR", "torchinductor_"  # variable of the compiler's cache, torch's own folders


def content_key(*parts: Any) -> str:
    """Return a folder name made of everything the content depends on."""
    return hashlib.sha256(repr((STORE_VERSION, *parts)).encode()).hexdigest()[:32]


def seal_store(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Seal a folder by store.json, which is returned; CRC-32, since large ones are read where they may have changed."""
    return seal(folder, STORE, {"version": STORE_VERSION, **facts}, digest="crc32")


def read_store(folder: Path) -> dict[str, Any] | None:
    """store.json of a folder that is whole, None where it is absent or damaged.

    Sizes are looked at always. Content is read and compared with its checksum the first time, and again when a file
    has changed since by its size, inode or times (`file_hashes`): so a start from 1 GB of tokens does not read them.
    """
    try:
        manifest = read_manifest(folder, STORE)
        names = list(manifest["files"])
        check_files(folder, manifest, contents=False)
        if not are_as_remembered(folder / CHECKED, folder, names):
            check_files(folder, manifest)
            remember(folder / CHECKED, folder, names)
    except (NotWhole, OSError, KeyError, TypeError, AttributeError):
        return None
    return manifest if manifest.get("version") == STORE_VERSION else None


def remember_large(folder: Path, manifest: dict[str, Any]) -> None:
    """Record a large folder that was just sealed as checked, so that the first start from it need not read it all."""
    names = list(manifest["files"])
    if sum(facts["size"] for facts in manifest["files"].values()) >= LARGE_BYTES:
        wait_until_settled([folder / name for name in names])
        remember(folder / CHECKED, folder, names)


def cache_home() -> Path:
    """Return the user's cache folder for prepared tokens and compiled code: $BABYLLAMA_CACHE or ~/.cache/babyllama."""
    given = os.environ.get("BABYLLAMA_CACHE")
    if given:
        return Path(given).expanduser()
    try:
        return Path.home() / ".cache" / "babyllama"
    except RuntimeError:  # no HOME and no entry in passwd: a container with a random user id
        return temporary_home()


def temporary_home() -> Path:
    """Return this user's folder below the system's temporary one."""
    return Path(tempfile.gettempdir()) / f"babyllama-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"


def _writable_home() -> Path:
    """Return the cache folder, or the one below the system's temporary folder where a compiler cannot use the other."""
    try:
        home = cache_home()
        home.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return temporary_home()
    usable = os.access(home, os.W_OK) and not any(letter.isspace() for letter in str(home))
    return home if usable else temporary_home()


def inductor_cache(precision: str = "bf16") -> Path:
    """Return the folder of compiled code: the user's, else ours; half precision has one of its own there.

    Before torch 2.13 the key of a compiled layer says that autocast is on, but not in which precision: a run in fp16
    after one in bf16 took the other's code and computed in bf16 (gradients of a Llama on an H100 off by 1.5% instead of
    0.2%; torch 2.11).

    Inductor hands its paths to the compiler unquoted: below a user's folder with a blank in its name nothing would be
    compiled, so the code lies in the system's temporary folder then; likewise where the cache cannot be written, since
    torch's compiler makes its folder when it is imported.
    """
    home = _writable_home()
    ours = {kind: home / f"inductor{kind}" for kind in ("", "-fp16")}
    given = os.environ.get(INDUCTOR)
    # torch writes its own default into the environment as soon as its compiler is imported, by whomever.
    torchs = given and Path(given).parent == Path(tempfile.gettempdir()) and Path(given).name.startswith(TORCHS)
    if given and not torchs and Path(given) not in ours.values():
        return Path(given)
    return ours["-fp16" if precision == "fp16" else ""]
