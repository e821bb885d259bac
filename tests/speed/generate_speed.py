"""Generation against `transformers.generate`: tokens per second, alternately in one process, the same greedy text.

python -m tests.speed.generate_speed
python -m tests.speed.generate_speed --config config/gpt-97M.yaml --batch-sizes 1 --repeats 3

Weights are random (their values cost nothing), scaled up so that the likeliest token is clear. `--cpu-time` counts
processor time instead of the clock, which says something even where other work runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

VOCABULARY = 16_000
PROMPT = 8


def build(path: str, model_type: str | None) -> tuple[Any, int]:
    """Build a preset's model with random weights; also return its trained length."""
    import torch
    from transformers import AutoModelForCausalLM

    from babyllama.config.loading import load_config
    from babyllama.models.architectures import build_model_config

    overrides = [f"model.type={model_type}"] if model_type else []
    config = load_config(path, overrides)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(build_model_config(config, VOCABULARY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return model, config.data.seq_length


def main() -> int:
    """Time both, print the medians, their ratio and whether the texts agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/llama-10M.yaml")
    parser.add_argument("--types", nargs="+", default=["Llama", "GPT2", "GPTJ"], help="architectures of these sizes")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    import torch

    from babyllama.models.decoding.decoder import make_decoder
    from babyllama.models.decoding.loop import decode
    from babyllama.models.decoding.sampling import GREEDY

    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    for kind in args.types:
        model, window = build(args.config, kind)
        decoder = make_decoder(model, window)
        for batch in args.batch_sizes:
            ids = torch.randint(3, VOCABULARY, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
            given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
            given |= {"max_new_tokens": args.new_tokens, "eos_token_id": None}

            def ours(ids: Any = ids, decoder: Any = decoder) -> Any:
                steps = decode(decoder, ids.tolist(), GREEDY, args.new_tokens, torch.Generator())
                return torch.tensor(list(zip(*steps, strict=True)))

            def theirs(ids: Any = ids, given: Any = given, model: Any = model) -> Any:
                return model.generate(ids, **given)[:, PROMPT:]

            same = (ours() == theirs()).float().mean()
            seconds: dict[Any, list[float]] = {ours: [], theirs: []}
            for _ in range(args.repeats):
                for function, into in seconds.items():
                    started = clock()
                    function()
                    into.append(clock() - started)
            ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
            made = args.new_tokens * batch
            speeds = [made / statistics.median(seconds[f]) for f in (ours, theirs)]
            print(
                f"{kind} {sum(p.numel() for p in model.parameters()):,} parameters, batch {batch}: "
                f"{speeds[0]:,.0f} tokens/s, transformers.generate {speeds[1]:,.0f}, "
                f"{ratio:.2f} times (median of {args.repeats} pairs); {100 * float(same):.1f}% of the tokens equal"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
