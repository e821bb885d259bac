"""Files of the user's own: found, imported once, and named when they fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from babyllama import plugins
from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config
from babyllama.models.attention import PLAIN, RECOMPUTE
from tests.runs import config_for, corpus, weights
from train import create_model, train

ROOT = Path(__file__).resolve().parent.parent


def test_a_plugin_registers_and_is_imported_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from babyllama.plugins import *\nfrom babyllama import plugins as p\n"
        "p.register_cleaner('letters', str.upper)\np.register_task('count', lambda e, o: {'n': 1})\n"
        "p.register_architecture('Mine', lambda c, t: None)\n"
        f"open({str(tmp_path / 'log')!r}, 'a').write('x')\n",
        encoding="utf-8",
    )
    plugins.load_plugins([file])
    plugins.load_plugins([str(file)])
    assert plugins.CLEANERS.pop("letters")("ab") == "AB"
    assert plugins.TASKS.pop("count")(None, {}) == {"n": 1}
    assert "Mine" in plugins.ARCHITECTURES
    assert plugins.ARCHITECTURES.pop("Mine")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"
    assert list(plugins.plugin_hashes([file])) == ["mine.py"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.py", None, "no such file"),
        ("broken.py", "1 / 0", "failed on import: ZeroDivisionError"),
        ("syntax.py", "def (", "failed on import: SyntaxError"),
        ("notes.txt", "x", "not a Python file"),
    ],
)
def test_a_bad_plugin_gives_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        plugins.load_plugins([file])
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


BUILDERS = """
from transformers import LlamaConfig, LlamaForCausalLM
from babyllama.models.architectures import build_model, build_model_config
from babyllama.plugins import register_architecture
class Quiet(LlamaForCausalLM):
    pass  # keeps Llama's config class: what it saves would be loaded as a plain Llama
def plain(config, tokenizer):
    own = config.model_copy(deep=True)
    own.model.type = "Llama"
    return own
def mislabelled(config, tokenizer):
    return Quiet(build_model_config(plain(config, tokenizer), len(tokenizer)))
def failing(config, tokenizer):
    raise KeyError("width")
register_architecture("Mislabelled", mislabelled)
register_architecture("Failing", failing)
register_architecture("Bare", lambda config, tokenizer: build_model(plain(config, 0), tokenizer).model.layers[0])
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Failing", "building Failing failed: KeyError: 'width'"),
        ("Mislabelled", "a saved Quiet would be loaded as LlamaForCausalLM: give it a config class"),
        ("Bare", "it returned a LlamaDecoderLayer, not a transformers PreTrainedModel"),
    ],
)
def test_an_architecture_that_cannot_be_built_or_loaded_again_is_one_line(
    name: str, message: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    file = tmp_path / "builders.py"
    file.write_text(BUILDERS, encoding="utf-8")
    plugins.load_plugins([file])
    config = Config(
        model={"type": name, "hidden_size": 32, "n_layer": 1, "n_head": 2}, data={"seq_length": 32}, plugins=[str(file)]
    )
    with pytest.raises(ConfigError) as caught:
        create_model(config, tiny_tokenizer)
    assert re.match(rf"plugins: {file}(:\d+)?: building {name} failed: ", str(caught.value))
    assert message in str(caught.value)
    for known in ("Failing", "Mislabelled", "Bare"):
        del plugins.ARCHITECTURES[known]


CALLBACKS = """
from transformers import TrainerCallback
from babyllama.plugins import register_callback
class Watch(TrainerCallback):
    def __init__(self, config):
        self.name = config.model.name
    def on_train_begin(self, args, state, control, **kwargs):
        print("watching", self.name, args.output_dir.endswith(self.name))
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2 and self.name == "fails":
            model.no_such_thing
register_callback(Watch)
"""


@pytest.fixture
def own_callbacks() -> Iterator[None]:
    """Callbacks are registered for the process: give them back."""
    before = list(plugins.CALLBACKS)
    yield
    plugins.CALLBACKS[:] = before


@pytest.mark.integration
@pytest.mark.usefixtures("own_callbacks")
def test_a_callback_watches_and_one_that_raises_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "watch.py"
    file.write_text(CALLBACKS, encoding="utf-8")
    text = corpus(tmp_path / "text", 200)
    for name in ("works", "fails"):
        config = config_for(text, tmp_path, name=name, max_steps=3)
        config.plugins = [str(file)]
        if name == "works":
            assert train(config).metrics["finished"]
            assert "watching works True" in capsys.readouterr().out
        else:
            with pytest.raises(
                ConfigError, match=rf"plugins: {file}:\d+: its callback's on_step_end failed: Attribute"
            ) as e:
                train(config)
            assert e.value.exit_code == 2
            assert "\n" not in str(e.value)


@pytest.mark.integration
def test_a_plugin_that_is_named_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """Its held-out text may have been cleaned by it: evaluation says what to name, and runs it only then."""
    file = tmp_path / "cleans.py"
    file.write_text(f"open({str(tmp_path / 'log')!r}, 'a').write('x')\n", encoding="utf-8")
    config = config_for(corpus(tmp_path / "text", 200), tmp_path, max_steps=2)
    config.plugins = [str(file)]
    run = train(config).run_dir
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"
    command = [sys.executable, "evaluate.py", str(run), "--tasks", "perplexity", "--device", "cpu"]
    kept = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")  # the run keeps what it held out
    assert kept.returncode == 0, kept.stderr
    for name in ("held_out.jsonl.gz", "text_hashes.npz"):
        (run / name).unlink()
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert refused.returncode == 2
    assert f"add --plugin {file}" in refused.stderr
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"
    done = subprocess.run([*command, "--plugin", str(file)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_an_own_architecture_resumes_exactly_and_reloads(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """The example's ALiBi Llama: same bits after a resume; generation with a cache equals one without."""
    import torch

    from babyllama.models.loading import load_model

    text, file = corpus(tmp_path / "text", 300), ROOT / "examples/custom_architecture.py"
    configs = [config_for(text, tmp_path, "AlibiLlama", name) for name in ("whole", "resumed")]
    for config in configs:
        config.plugins = [str(file)]
    whole, resumed = (train(config).run_dir for config in configs)
    shutil.rmtree(resumed / "checkpoint-12")
    for name in ("model.safetensors", "training_metrics.json"):
        (resumed / name).unlink()
    train(configs[1], resume=True)
    assert weights(resumed) == weights(whole)
    model = load_model(whole)
    assert type(model).__name__ == "AlibiLlamaForCausalLM"
    ids = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    found = {}
    for attention in ("eager", "sdpa", PLAIN, RECOMPUTE):
        model.set_attn_implementation(attention)
        found[attention] = model(input_ids=ids).logits
        assert torch.equal(
            model.generate(ids, use_cache=True, **greedy), model.generate(ids, use_cache=False, **greedy)
        )
    for logits in found.values():
        assert torch.allclose(logits, found["eager"], atol=1e-4)
    later = ids.clone()
    later[:, 10:] = 5
    assert torch.allclose(model(input_ids=later).logits[:, :10], found["sdpa"][:, :10], atol=1e-5), "causal"
