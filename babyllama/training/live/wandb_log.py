"""Weights & Biases, started by us so that it cannot stop a training, nor delay its start by more than 23 seconds.

The Trainer's own callback calls `wandb.init` without an id and waits 90 s for a server that does not answer. Here the
mode is decided first (offline without a key or without a connection), the id is kept in the run folder so that a
resume goes on in the same W&B run, and whatever W&B raises becomes one line while the training goes on.
The names are the same as in log_history.jsonl.
"""

from __future__ import annotations

import netrc
import os
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say, warn
from babyllama.common.distributed import is_main_process
from babyllama.common.files import write_text_atomic
from babyllama.config.run_layout import WANDB_ID
from babyllama.config.schema import Config

DEFAULT_PROJECT = "babyllama"
CONNECT_SECONDS = 3.0
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def project_name(config: Config) -> str:
    """Return the flag or config, then $WANDB_PROJECT, then `babyllama`."""
    return config.logging.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT


def wandb_mode() -> tuple[str, str]:
    """`online`, `offline` or `disabled`, and why."""
    given = os.environ.get("WANDB_MODE")
    if given:
        return given, "WANDB_MODE"
    import wandb

    settings = wandb.setup().settings  # reads the environment and what `wandb login` wrote
    address = urlparse(settings.base_url)
    if not (settings.api_key or _netrc_key(address.hostname)):
        return "offline", "no API key (wandb login)"
    if proxy := proxy_for(settings.base_url):  # on such clusters only the proxy reaches the outside
        address = urlparse(proxy)
    place = (address.hostname, address.port or PORTS.get(address.scheme, 443))
    try:
        with socket.create_connection(place, timeout=CONNECT_SECONDS):
            return "online", "connected"
    except OSError as error:
        return "offline", f"{address.hostname} cannot be reached: {error}"


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address, None where it is reached without.

    `HTTPS_PROXY=proxy:3128` is http://proxy:3128, as for curl, pip and W&B itself.
    """
    found = urlparse(url)
    proxy = getproxies().get(found.scheme)
    if not proxy or proxy_bypass(found.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _netrc_key(host: str | None) -> str | None:
    """Return the key that `wandb login` keeps in ~/.netrc, None where there is none."""
    try:
        found = netrc.netrc().authenticators(host or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def _run_id(run_dir: Path) -> str:
    path = run_dir / WANDB_ID
    if not path.is_file():
        write_text_atomic(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


class WandbLog(TrainerCallback):
    """Sends each log entry to W&B; the first failure ends the sending, not the training."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self.run: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start or go on with the W&B run."""
        if not is_main_process():
            return
        try:
            self._start()
        except Exception as error:  # W&B raises its own and many others; none may stop a training
            warn(f"wandb: not started ({_first_line(error)}); the training goes on without it")

    def _start(self) -> None:
        import wandb

        mode, why = wandb_mode()
        self.run = wandb.init(
            project=project_name(self.config),
            name=self.config.logging.run_name or self.config.model.name,
            id=_run_id(self.run_dir),
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(self.run_dir),
            config=self.config.model_dump(),
            settings=wandb.Settings(init_timeout=20, silent=True),
        )
        later = f"; upload later with: wandb sync {self.run_dir}/wandb/offline-run-*" if mode == "offline" else ""
        say(f"wandb: {mode} ({why}){later}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Send the newest entry."""
        if self.run is None or not state.log_history:
            return
        entry = state.log_history[-1]
        try:
            self.run.log({name: value for name, value in entry.items() if name != "step"}, step=entry["step"])
        except Exception as error:  # see on_train_begin
            warn(f"wandb: stopped ({_first_line(error)}); the training goes on without it")
            self.run = None

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        """Close the W&B run with the final figures."""
        if self.run is None:
            return
        try:
            self.run.summary.update(summary or {})
            self.run.finish()  # Settings(silent=True) keeps it quiet; 0.31 takes no `quiet`
        except Exception as error:  # see on_train_begin
            warn(f"wandb: not closed cleanly ({_first_line(error)})")
        self.run = None
