"""The configuration's shape: one pydantic model per YAML section, a docstring under each field.

The flags' help, the JSON Schema (config/schema.json) and docs/configuration.md are made from these docstrings, and a
test finds each of them stale. Loading, overriding and error messages live in loading.py; this module only says which
keys exist, their types, defaults and ranges.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from babyllama.common.units import parse_count

CURRICULUM_DIFFICULTIES = ("length", "rarity", "domain", "loss")


def none_as_meant(value: object) -> object:
    """Return None for the strings that stand for no value, anything else as it is."""
    return None if isinstance(value, str) and value.strip() in {"None", "none", "null", ""} else value


def _auto_bool(value: object) -> object:
    """Accept booleans and the words a shell gives for them beside `auto`."""
    if isinstance(value, str):
        return {"true": True, "false": False, "yes": True, "no": False}.get(value.lower(), value.lower())
    return value


def _milestones(value: object) -> object:
    """Return a list of word counts (`1M`, `500k`, 20000), one of them, or the name of a schedule."""
    if isinstance(value, list):
        return sorted({parse_count(item) for item in value}) or None
    if isinstance(value, str) and not value.strip()[:1].isdigit():
        return value.strip()
    return value if value is None else [parse_count(value)]


def _decays(value: object) -> object:
    """One decay or a list of them, each above 0 and below 1; sorted, without repeats."""
    value = none_as_meant(value)
    if value is None:
        return None
    found = sorted({float(item) for item in (value if isinstance(value, list) else [value])})
    if not all(0 < decay < 1 for decay in found):
        raise ValueError("a decay lies above 0 and below 1, e.g. 0.999")
    return found or None


def _at_least_one(value: object) -> object:
    """Refuse counts below 1."""
    if value != "auto" and value < 1:
        raise ValueError("at least 1, or auto")
    return value


AutoBool = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_bool)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        validate_assignment=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: object) -> object:
        """Read the string `None`, as YAML written for other tools has it, as no value where a key may have none."""
        if not isinstance(values, dict):
            return values
        nullable = {name for name, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {name: none_as_meant(value) if name in nullable else value for name, value in values.items()}


class DataConfig(Section):
    """Where the text comes from and how it becomes chunks of tokens."""

    train_path: str = "synthetic"
    """Training text: a folder, a file, a glob, `synthetic` (the embedded corpus) or `hf:org/name[:config]`."""
    eval_path: str | None = None
    """Held-out text. Unset: the folder's own *.dev files; where there are none, `holdout` of the documents."""
    holdout: float = Field(0.05, gt=0, lt=0.5)
    """Share of whole documents held out (never trained on) where the source has no *.dev files."""
    holdout_by: Literal["document", "file"] = "document"
    """What is held out as a whole: documents, or files (no file then stands on both sides)."""
    test: float = Field(0.0, ge=0, lt=0.5)
    """Share of the training text that is set aside for `evaluate.py RUN --split test`; no run sees or chooses by it."""
    mix: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each domain in training, by tokens: {childes: 2, wikipedia: 1}; 0 leaves one out; unset: as it is."""
    mix_temperature: Annotated[float, Field(gt=0)] | None = None
    """Weights by size: a domain of n tokens gets n^(1/T); 1 is the text as it is, more flattens it."""
    tokenizer_path: str | None = None
    """A tokenizer folder, or one tokenizers file ending in .json. Unset: trained on the training text and cached."""
    tokenizer_output: str | None = None
    """A folder, or a file ending in .json, that the tokenizer trained on this text is written to, and read from where
    it is there already."""
    vocab_size: Literal["auto"] | Annotated[int, Field(ge=260, le=1_000_000)] = 16_000
    """Tokens in the vocabulary (lowered by itself, with a line, where the corpus does not carry it); auto: doubled from
    1,000 as long as that makes the text 5% shorter."""
    prefix_space: bool = False
    """Let the tokenizer that is trained put a blank in front of every text (BabyLM's reading task asks for it)."""
    seq_length: int = Field(128, ge=8, le=65_536)
    """Tokens in one chunk: what the model sees at once in training, and the window of the evaluation."""
    start_length: Annotated[int, Field(ge=8)] | None = None
    """Tokens of a chunk in the first part of the training: chunks are cut into such pieces, a step's tokens stay."""
    start_share: float = Field(0.5, gt=0, lt=1)
    """Share of the steps that start_length lasts."""
    eval_samples: Annotated[int, Field(ge=1)] | None = None
    """Held-out chunks used for the curve during training; unset: at most 256. The final score always uses all."""
    clean: bool = True
    """Clean the text by its domain's rules (see cleaners.py)."""
    speaker_labels: Literal["keep", "remove"] = "keep"
    """Speaker labels in dialogue (`*MOT:`, `A:`)."""
    spelling: Literal["as_is", "sentence"] = "as_is"
    """Spelling of transcripts; sentence: CHILDES with capitals and attached punctuation, a blank for a label's tab."""
    reshuffle_documents: bool = False
    """Join the documents in a new order in each epoch (false: one order, only the cut points move)."""
    chunk_start: Literal["anywhere", "line"] = "anywhere"
    """Where chunks begin; line: at a line, behind a `<s>`, and what does not fit is padding."""
    segment_tokens: tuple[int, int] | None = None
    """Cut documents at sentence ends, anew in each epoch, into `<s> ... </s>` of about [shortest, longest] tokens."""
    segment_share: float = Field(1.0, gt=0, le=1)
    """Share of the documents that segment_tokens cuts."""
    input_noise: float = Field(0.0, ge=0, lt=1)
    """Share of input tokens replaced in training, half by random tokens and half by `<pad>`; labels stay."""
    random_offset: bool = True
    """Shift the cut points between chunks anew in each epoch, reproducibly."""
    max_words: Annotated[int, Field(ge=1)] | None = None
    """Use only the first documents, up to about this many words, for a bounded first try."""
    num_proc: Annotated[int, Field(ge=1)] | None = None
    """Processes that clean and tokenize; unset: one a core (one in all on systems other than Linux)."""
    cache_dir: str | None = None
    """Where prepared tokens are kept; unset: ~/.cache/babyllama (or $BABYLLAMA_CACHE)."""
    text_key: str = Field("text", min_length=1)
    """Key or column that holds the text in JSONL, CSV, TSV, Parquet and hub data sets."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Bytes that are not UTF-8, and NUL bytes: stop with file, line and offset, or replace them by U+FFFD."""
    synthetic_words: int = Field(850_000, ge=1_000, le=200_000_000)
    """Words of the embedded corpus to generate for training."""
    synthetic_seed: int = Field(0, ge=0)
    """Seed of the embedded corpus."""


class ModelConfig(Section):
    """The network: architecture and sizes."""

    type: str
    """Llama, GPT2, GPTJ, or an architecture that a plugin registers."""
    name: str | None = None
    """The run's name: the folder under logging.output_dir."""
    hidden_size: int = Field(192, ge=2)
    """Width of the residual stream."""
    intermediate_size: Annotated[int, Field(ge=1)] | None = None
    """Width of the feed-forward layer; unset: 4 x hidden_size."""
    n_layer: int = Field(6, ge=1)
    """Number of layers."""
    unique_layers: Annotated[int, Field(ge=1)] | None = None
    """Layers with matrices of their own, which the n_layer layers share in turn; saved as copies, a plain model."""
    n_head: Annotated[int, Field(ge=1)] | None = None
    """Attention heads; unset: about hidden_size / 64, a divisor of hidden_size."""
    n_kv_head: Annotated[int, Field(ge=1)] | None = None
    """Key/value heads of Llama's grouped attention; unset: n_head."""
    tie_word_embeddings: bool | None = None
    """Share input and output embeddings; unset: yes for GPT2, no for Llama and GPTJ."""
    resid_pdrop: float = Field(0.0, ge=0, lt=1)
    """Dropout after attention and feed-forward."""
    embd_pdrop: float = Field(0.0, ge=0, lt=1)
    """Dropout after the embeddings (GPT2, GPTJ)."""
    attn_pdrop: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights."""
    max_position_embeddings: Annotated[int, Field(ge=8)] | None = None
    """Positions the checkpoint allows; unset: the larger of 512 and seq_length."""
    init_from: str | None = None
    """A local checkpoint folder to start from instead of random weights."""


class TrainingConfig(Section):
    """The recipe."""

    lr: float = Field(3e-3, gt=0, lt=10)
    """Peak learning rate (of Muon's matrices where optimizer is muon)."""
    muon_adamw_lr: Annotated[float, Field(gt=0, lt=10)] | None = None
    """Peak learning rate of what Muon leaves to AdamW (embeddings, head, norms); unset: lr."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for hidden matrices with AdamW for the rest."""
    batch_size: int = Field(32, ge=1)
    """Sequences per optimizer step, over all devices."""
    slow_batch_size: Annotated[int, Field(ge=1)] | None = None
    """The same on a CPU that computes in float32, where a short training has too few steps; unset: batch_size."""
    gradient_accumulation_steps: Annotated[Literal["auto"] | int, AfterValidator(_at_least_one)] = 1
    """Parts a step is computed in; must divide batch_size; auto: the fewest that should fit into memory."""
    num_epochs: float = Field(1, gt=0, le=1_000_000)
    """Passes over the training text."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimizer steps; overrides num_epochs."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of training: the number of steps is fixed once from timed steps, epochs repeat the text until then."""
    quick_start_minutes: Annotated[float, Field(gt=0)] | None = None
    """Upper bound of minutes for one epoch of the embedded corpus; other text and other lengths do not look at it."""
    quick_start: dict[str, Any] | None = None
    """Keys of this section that hold instead where the text is the embedded corpus: a preset's short recipe for it."""
    warmup_steps: float = Field(0.05, ge=0)
    """Warm-up of the learning rate: a count, or below 1 a share of the run."""
    lr_scheduler: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """Schedule after the warm-up; wsd is warmup-stable-decay."""
    decay_fraction: float = Field(0.3, gt=0, le=1)
    """Share of the run in which wsd decays to zero."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay (matrices only)."""
    embedding_weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of embeddings and head; unset: weight_decay. Rows of rare words decay between sightings."""
    cautious_weight_decay: bool = False
    """Decay an entry only where the update shrinks it, too."""
    ema_decay: Annotated[float | list[float] | None, BeforeValidator(_decays)] = None
    """Keep an exponential average of the weights with this decay a step, or several; saved as ema_* in the run."""
    average_epochs: Annotated[int, Field(ge=2)] | None = None
    """Keep the mean of the weights at the ends of the last so many epochs, saved as mean_*_epochs in the run."""
    decay_from: str | None = None
    """Begin as the cooldown of another run: its checkpoint folder, written under lr_scheduler constant."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the second moment."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """AdamW's denominator constant."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are clipped to this norm; 0 switches clipping off."""
    fp16: AutoBool = "auto"
    """Half precision with loss scaling (CUDA only; elsewhere bf16 or fp32, with a line)."""
    bf16: AutoBool = "auto"
    """bfloat16 autocast; auto: where the machine computes it fast. Both precisions false: float32."""
    torch_compile: AutoBool = "auto"
    """Compile the layers; auto: where the run is long enough to earn the compile time back."""
    attention: Literal["auto", "plain", "recompute", "eager", "sdpa", "causal"] = "auto"
    """auto: CUDA causal; CPU up to 512 tokens plain, from 50M parameters recompute, uncompiled eager; else sdpa."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of a process on a CPU; unset: torch's own number, with several processes the cores shared out."""
    keep_freed_memory: bool = True
    """Let glibc's malloc keep large freed buffers for the next step instead of giving them back (Linux)."""
    tf32: bool = True
    """TF32 for the products of a training in float32, on a CUDA GPU that has it; never for scores."""
    cuda_graphs: AutoBool = "auto"
    """Replay forward and backward pass as a CUDA graph; auto: on one GPU, bf16 or fp32, one part, causal attention."""
    deterministic: bool = False
    """Deterministic kernels: on CUDA a resumed run then equals the unbroken one to the bit; slower."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    fsdp: bool = False
    """Share weights, gradients and optimizer state out over the GPUs (FSDP2), for a model too large for one."""
    seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seed of weights, order and dropout."""
    save_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints; unset: about ten a run."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between points of the held-out curve; unset: about twenty a run."""
    logging_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between log lines; unset: about a hundred a run."""
    save_total_limit: int = Field(2, ge=2)
    """Checkpoints kept (never below two complete ones)."""
    save_words: Annotated[list[int | str] | str | None, BeforeValidator(_milestones)] = None
    """Words seen at which the model is saved as `chck_1M` ...: [1M, 2M, 5M], or a schedule of config/milestones."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Points of the held-out curve without improvement after which the run ends; under wsd its decay begins there."""
    keep: Literal["last", "best", "ema"] = "last"
    """Which weights become the run's model: the last, the best on the held-out curve, or (ema) the best average
    of ema_decay and average_epochs; unset beside patience: best."""
    dataloader_num_workers: int = Field(0, ge=0)
    """Loader processes; 0 is as fast, the loader needs no help (docs/performance.md)."""

    @model_validator(mode="before")
    @classmethod
    def _keep_best(cls, values: object) -> object:
        """Keep the best weights where a run ends because they no longer improve, unless the user says otherwise."""
        if isinstance(values, dict) and values.get("patience") is not None and "keep" not in values:
            return {**values, "keep": "best"}
        return values

    @property
    def parts(self) -> int:
        """Parts a step is computed in; one as long as `auto` is not decided (`training.start.choose_parts`)."""
        return 1 if self.gradient_accumulation_steps == "auto" else self.gradient_accumulation_steps

    @property
    def decays(self) -> list[float]:
        """Decays of the weights' exponential averages, one an average; empty where none is kept."""
        found = self.ema_decay or []
        return found if isinstance(found, list) else [found]


class LoggingConfig(Section):
    """Where the run is written and who is told of it."""

    output_dir: str = "models"
    """Folder that holds the run folders."""
    wandb: bool = False
    """Log to Weights & Biases (offline where it cannot be reached)."""
    project: str | None = None
    """W&B project; unset: $WANDB_PROJECT, else babyllama."""
    run_name: str | None = None
    """W&B run name; unset: model.name."""
    report_to: list[str] = Field(default_factory=list)
    """Further integrations of the Trainer, e.g. [tensorboard]."""
    live_page: bool = True
    """Rewrite report.html while the run trains: curve, time left, what the model writes; at most 1% of the time."""


class DistillationConfig(Section):
    """Learning from an ensemble of teachers beside the text (distillation.py)."""

    teachers: list[str] = Field(min_length=1)
    """Run folders of the teachers; all have the student's tokenizer."""
    weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Weights of the teachers, in their order; unset: equal."""
    temperature: float = Field(2.0, gt=0)
    """Temperature that softens the distributions of both sides."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the text's cross-entropy; the rest is the teachers'."""
    reduction: Literal["token", "paper"] = "token"
    """Mean of the KL over tokens, or over sequences as arXiv 2308.02019 does (weighs it seq_length times)."""
    combine: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over teachers: their probabilities, or their logits as the paper does."""


class CurriculumConfig(Section):
    """Easy text first (curriculum.py)."""

    difficulty: str = "rarity"
    """length, rarity, domain, loss, or one that a plugin registers (difficulty.py)."""
    schedule: Literal["linear", "root", "step"] = "root"
    """How the share of the text that is in grows."""
    start: float = Field(0.1, gt=0, le=1)
    """Share of the chunks, the easiest, that is in at the beginning."""
    full_at: float = Field(0.5, gt=0, le=1)
    """Share of the run after which everything is in."""
    stages: int = Field(4, ge=1, le=1000)
    """Jumps of `schedule: step`."""
    domains: list[str] = Field(default_factory=list)
    """For `domain`: every domain of the text, the easiest first."""
    model: str | None = None
    """For `loss`: the run folder of the model whose loss is the difficulty."""


class Config(Section):
    """A whole run."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)
    distillation: DistillationConfig | None = None
    curriculum: CurriculumConfig | None = None
    plugins: list[str] = Field(default_factory=list)
    """Python files of your own that register architectures, difficulties, callbacks, cleaners or evaluation tasks."""
    _notices: list[str] = PrivateAttr(default_factory=list)


SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "logging": LoggingConfig,
    "distillation": DistillationConfig,
    "curriculum": CurriculumConfig,
}


TYPES = {"llama": "Llama", "gpt2": "GPT2", "gpt-2": "GPT2", "gptj": "GPTJ", "gpt-j": "GPTJ"}
