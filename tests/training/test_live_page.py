"""The page of a training: what it says while it goes on, after a kill, at the end; and that it changes no weight."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from babyllama import plugins
from babyllama.common.errors import Interrupted, NumericError
from babyllama.config.run_layout import LIVE_SAMPLES, REPORT
from babyllama.data.documents import Document
from babyllama.pages.light_curve import light_loss_curve
from babyllama.pages.live_page import Live, write_live_page
from babyllama.pages.run_page import read_log
from babyllama.training.live import page
from babyllama.training.live.page import LivePage
from babyllama.training.live.samples import SampleWriter, choose_prompts
from tests.runs import config_for, corpus, weights
from train import train

ATTACK = "</script><script>alert(1)</script>"


class Watcher(TrainerCallback):
    """Reads the page after each point, as a browser would."""

    def __init__(self, run: Path, stop_at: int = 0) -> None:
        self.run, self.stop_at, self.pages = run, stop_at, {}  # type: ignore[var-annotated]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pages[state.global_step] = (self.run / REPORT).read_text(encoding="utf-8")
        if self.stop_at and state.global_step == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny runs last a second, of which a page cannot be 1%."""
    monkeypatch.setattr(page, "SHARE", 1e9)
    monkeypatch.setattr(page, "SHARE_OF_LOG_LINES", 1e9)
    monkeypatch.setattr(plugins, "CALLBACKS", [])


def _watch(run: Path, stop_at: int = 0) -> Watcher:
    watcher = Watcher(run, stop_at)
    plugins.register_callback(lambda config: watcher)
    return watcher


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_page_follows_the_run_and_changes_no_weight(tmp_path: Path, generous: None, kind: str) -> None:
    text = corpus(tmp_path / "text")
    config = config_for(text, tmp_path, kind)
    config.model.resid_pdrop = 0.1  # masks come from the random state that a sample must not touch
    watcher = _watch(tmp_path / "run")
    run = train(config).run_dir
    middle = watcher.pages[7]
    assert 'class="state running"' in middle
    assert "of 12; epoch" in middle
    assert "location.reload" in middle
    assert not re.search(r"(src|href)=|https?://|fetch\(", middle), "the page asks for something outside of it"
    assert middle.count("<polyline") == 2
    final = (run / REPORT).read_text(encoding="utf-8")
    assert 'class="state' not in final
    assert "95% interval" in final
    written = read_log(run / LIVE_SAMPLES)
    assert [entry["step"] for entry in written] == [6, 12]
    assert all(sample["prompt"] for entry in written for sample in entry["samples"])
    assert "What it wrote while it learned" in final

    plugins.CALLBACKS.clear()
    config = config.model_copy(deep=True)
    config.logging.live_page, config.model.name = False, "without"
    other = train(config).run_dir
    assert weights(other) == weights(run)
    assert not (other / REPORT).exists()


@pytest.mark.integration
def test_killed_run_has_a_readable_page_and_a_resume_goes_on_with_it(tmp_path: Path, generous: None) -> None:
    config = config_for(corpus(tmp_path / "text"), tmp_path)
    _watch(tmp_path / "run", stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    stopped = (tmp_path / "run" / REPORT).read_text(encoding="utf-8")
    assert "Ended by an error" in stopped
    assert [entry["step"] for entry in read_log(tmp_path / "run" / LIVE_SAMPLES)] == [6]
    plugins.CALLBACKS.clear()
    watcher = _watch(tmp_path / "run")
    run = train(config, resume=True).run_dir
    assert 'class="state running"' in watcher.pages[8]
    assert [entry["step"] for entry in read_log(run / LIVE_SAMPLES)] == [6, 12]
    assert "at every point (2)" in (run / REPORT).read_text(encoding="utf-8")


@pytest.mark.integration
def test_page_of_a_process_that_was_killed_says_since_when(tmp_path: Path) -> None:
    """A real kill -9: no line of ours runs any more, and the page on the disk has all that its script needs."""
    text, run = corpus(tmp_path / "text"), tmp_path / "models" / "run"
    code = f"""
import os, signal
from transformers import TrainerCallback
from babyllama import plugins
from pathlib import Path
from tests.runs import config_for
from train import train
class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
plugins.register_callback(lambda config: Kill())
train(config_for(Path({str(text)!r}), Path({str(tmp_path / "models")!r})))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    html = (run / REPORT).read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    clock = re.search(r'const clock = ({.*?"written": ([\d.]+).*?}),', html)
    assert clock is not None
    assert 0 <= time.time() - float(clock[2]) < 120
    assert "no news since" in html
    assert not list(run.glob(".report.html*")), "a half-written page lies about"


def _live(stage: str = "running", **changes: Any) -> Live:
    facts: dict[str, Any] = {"name": ATTACK, "message": ATTACK, "parameters": 10, "text": ATTACK, "share": 0.5}
    facts |= {"seconds_to_next": 40.0, "best_step": 2, "tiles": [(ATTACK, ATTACK, ATTACK)], "notes": [ATTACK]}
    return Live(stage=stage, **facts | changes)


def test_text_of_a_model_stays_text_on_the_page(tmp_path: Path) -> None:
    sample = {"prompt": ATTACK, "completion": f"{ATTACK}\x1b[2J"}
    entry = {"step": 2, "words": 5, "valid_loss": None, "samples": [sample]}
    (tmp_path / LIVE_SAMPLES).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    html = write_live_page(tmp_path, _live(), []).read_text(encoding="utf-8")
    assert ATTACK not in html
    assert html.count("<script>") == html.count("</script>") == 1
    assert "\x1b" not in html


def test_page_is_loaded_again_only_while_there_is_news_to_expect() -> None:
    running = _live().clock()
    assert (running["every"], running["silent"], running["ended"]) == (10, 120, False)
    assert _live(seconds_to_next=None).clock()["silent"] == 900
    assert _live(seconds_to_next=1e4).clock()["every"] == 20
    assert all(_live(stage).clock()["until"] == 600 for stage in ("finished", "stopped", "failed"))


def test_curve_needs_two_finite_points_and_marks_the_best() -> None:
    log = [{"step": n, "tokens": 100 * n, "loss": 5.0 / n, "valid_loss": 6.0 / n} for n in (1, 2, 3)]
    drawn = light_loss_curve(log, best_step=3)
    assert drawn.count("<circle") == 3
    assert "best (step 3)" in drawn
    assert light_loss_curve(log[:1] * 0) == ""
    assert light_loss_curve([{"step": 1, "tokens": 0, "loss": float("nan"), "valid_loss": 1.0}] * 2) == ""
    assert "<circle" in light_loss_curve([{"step": 1, "tokens": 0, "loss": 2.0, "valid_loss": 2.0}]), "a flat line"


def test_many_log_lines_are_thinned_to_the_plot() -> None:
    log = [{"step": n, "tokens": n, "loss": 1.0 + n % 7} for n in range(1, 5001)]
    assert len(light_loss_curve(log)) < 12_000


def _page(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any, write: Any = None) -> tuple[LivePage, Any]:
    trainer = SimpleNamespace(
        model=tiny_llama,
        processing_class=tiny_tokenizer,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        clock=SimpleNamespace(training_seconds=lambda: 1.0, disturb=lambda: None),
        best=SimpleNamespace(best_step=None),
        patience=None,
        epoch_words=100,
    )
    config = SimpleNamespace(
        data=SimpleNamespace(seq_length=32, train_path="synthetic"), model=SimpleNamespace(name="run")
    )
    state = SimpleNamespace(global_step=3, max_steps=10, epoch=0.3, log_history=[], eval_steps=5)
    trainer.state = state
    documents = [Document("One two three four five six seven", "a", "a")]
    live = LivePage(trainer, config, tmp_path, documents)  # type: ignore[arg-type]
    if write is not None:
        live.writer.write = write  # type: ignore[method-assign]
    return live, state


def test_page_keeps_to_its_share_of_the_time(
    tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated clock: steps of a second, a page of 20 ms, samples of 400 ms; points every 12 seconds."""
    now = [0.0]
    monkeypatch.setattr(page.time, "perf_counter", lambda: now[0])

    def pass_time(seconds: float, found: Any = None) -> Any:
        now[0] += seconds
        return found

    monkeypatch.setattr(page, "write_live_page", lambda *_: pass_time(0.02))
    live, state = _page(tmp_path, tiny_llama, tiny_tokenizer, lambda model: pass_time(0.4, [{"prompt": "a"}]))
    live.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for second in range(1, 601):
        now[0] += 1.0
        state.global_step = second
        live.on_log(None, state, None, logs={"loss": 1.0})  # type: ignore[arg-type]
        if second % 12 == 0:
            live.on_evaluate(None, state, None)  # type: ignore[arg-type]
            assert live.seconds <= 0.01 * now[0] + 0.4, "only the first samples, which nothing has timed yet, may"
    assert 0.008 * now[0] < live.seconds <= 0.01 * now[0]
    assert 8 <= len(live._samples) <= 14, "samples at some of the 50 points"


def test_what_fails_on_the_page_never_ends_a_run(
    tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any, generous: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(model: Any) -> None:
        raise TypeError("no cache")

    live, state = _page(tmp_path, tiny_llama, tiny_tokenizer, broken)
    live.on_evaluate(None, state, None)  # type: ignore[arg-type]
    assert "no samples (TypeError: no cache)" in capsys.readouterr().err
    live.failed(NumericError("the loss became nan"))
    assert "the loss became nan" in (tmp_path / REPORT).read_text(encoding="utf-8")
    live.failed(Interrupted("go on with: main.py --resume_from_checkpoint", 15))
    assert "go on with: main.py --resume_from_checkpoint" in (tmp_path / REPORT).read_text(encoding="utf-8")
    live.run_dir = tmp_path / REPORT  # a file: nothing can be written below it
    live.on_evaluate(None, state, None)  # type: ignore[arg-type]
    assert "the training goes on without it" in capsys.readouterr().err
    live.on_train_end(None, state, None)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "", "told once"


def test_samples_leave_the_training_as_it_was(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    documents = [Document(f"Text {n} begins with these words and goes on", "a", "a") for n in range(9)]
    writer = SampleWriter(tiny_tokenizer, documents, 32)
    assert len(writer.prompts) == 3
    tiny_llama.train()
    before = torch.get_rng_state()
    first, second = writer.write(tiny_llama), writer.write(tiny_llama)
    assert first == second
    assert tiny_llama.training
    assert torch.equal(before, torch.get_rng_state())
    tiny_llama.eval()


def test_a_plugins_model_writes_by_its_own_forward(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    class OwnModel(type(tiny_llama)):  # type: ignore[misc]
        """A class that the lean decoding step does not know."""

    own = OwnModel(tiny_llama.config).train()
    own.load_state_dict(tiny_llama.state_dict())
    documents = [Document("Some words", "a", "a"), Document("A longer beginning of a text", "a", "a")]
    writer = SampleWriter(tiny_tokenizer, documents, 32)
    prompts = [sample["prompt"] for sample in writer.write(own)]
    assert prompts == writer.prompts
    assert own.training


def test_prompts_are_beginnings_and_never_missing() -> None:
    assert choose_prompts([]) == [""]
    assert choose_prompts([Document("", "a", "a")]) == [""]
    same = [Document("Once upon a time there was a dog", "a", "a")] * 5
    assert choose_prompts(same) == ["Once upon a time there was"]
