"""What nearly every row imports; the server that forks rows does it once. Nothing is computed here."""

import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.gpt2.modeling_gpt2  # noqa: F401
import transformers.models.gptj.modeling_gptj  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import Trainer  # noqa: F401

import babyllama.models.attention  # noqa: F401
import babyllama.models.fused_loss  # noqa: F401
import babyllama.training.trainer  # noqa: F401
import evaluate  # noqa: F401
import train  # noqa: F401
