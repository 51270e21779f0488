"""Small random thought checkpoints with the key layout of the published ones, and their oracle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from tests.conftest import tiny_tokenizer

QUESTIONS = ["Anna has 3 hens.", "How many eggs do 12 hens lay in 5 days?", "What is 7 + 8?"]
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
}
WIDTHS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
N_STEPS, RANK, ALPHA, CONTEXT = 6, 4, 8.0, 160


def save_base(root: Path, family: str, *, d: int = 32, tied: bool = True, n_layers: int = 3) -> Path:
    """config.json and a tokenizer, without weights."""
    tokenizer = tiny_tokenizer()
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=d, n_layer=n_layers, n_head=4, n_positions=CONTEXT,
            bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
        )  # fmt: skip
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=d, intermediate_size=48, num_hidden_layers=n_layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT,
            bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
        )  # fmt: skip
    root.mkdir(parents=True)
    config.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


LMS: dict[str, Callable[..., PretrainedConfig]] = {
    "gpt2": lambda **rest: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **rest),
    "llama": lambda **rest: LlamaConfig(**WIDTHS, **rest),
    "qwen3": lambda **rest: Qwen3Config(**WIDTHS, head_dim=8, **rest),
}


def save_lm(root: Path) -> Path:
    """A random causal language model of the kind that the directory is called after, sure of some things."""
    tokenizer = tiny_tokenizer()
    config = LMS[root.name](vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.12)
    lm.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


class Wrapper(nn.Module):
    """The training wrapper whose state dict is a CODI checkpoint."""

    def __init__(self, lm: PreTrainedModel, family: str, *, norm: bool) -> None:
        super().__init__()
        d = lm.config.hidden_size
        lora = LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an old way
            self.codi = get_peft_model(lm, lora)
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, 24), nn.GELU(), nn.Linear(24, d))
        if norm:
            self.prj.add_module("ln", nn.LayerNorm(d))


@dataclass
class Fake:
    """A checkpoint on disk and the wrapper it came from, which is the oracle."""

    file: Path
    base: Path
    wrapper: Wrapper
    n_vocab: int
    eos: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        return torch.load(self.file, weights_only=True)

    def save(self, tensors: dict[str, Tensor]) -> Path:
        torch.save(tensors, self.file)
        return self.file


def make_codi(
    root: Path, family: str, *, tied: bool = True, norm: bool = True, seed: int = 0, n_layers: int = 3
) -> Fake:
    """Base in bfloat16, LoRA and projection in float32, LoRA's B not zero, V+3 embedding rows."""
    torch.manual_seed(seed)
    base = save_base(root / "base", family, tied=tied, n_layers=n_layers)
    tokenizer = tiny_tokenizer()
    config = (GPT2Config if family == "gpt2" else LlamaConfig).from_pretrained(base)
    config.vocab_size = len(tokenizer) + 3
    wrapper = Wrapper(AutoModelForCausalLM.from_config(config, dtype=torch.float32), family, norm=norm)
    for name, parameter in wrapper.named_parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
        if "lora_" not in name and name.startswith("codi."):
            parameter.data = parameter.data.bfloat16().float()
    wrapper.eval()
    state = {
        key: value.bfloat16() if key.startswith("codi.") and "lora_" not in key else value
        for key, value in wrapper.state_dict().items()
    }
    file = root / "pytorch_model.bin"
    torch.save(state, file)
    return Fake(file, base, wrapper, len(tokenizer), int(tokenizer.eos_token_id))


@torch.no_grad()
def think_without_cache(
    fake: Fake, question: str, *, remove_eos: bool, n_steps: int = N_STEPS
) -> dict[str, Tensor]:
    """The whole sequence again at every pass, batch of one: states at passes 0..n_steps, answer logits."""
    lm, prj = fake.wrapper.codi, fake.wrapper.prj
    table = lm.get_input_embeddings()
    eos = [] if remove_eos else [fake.eos]
    ids = [*tiny_tokenizer()(question)["input_ids"], *eos, fake.n_vocab + 1]
    x = table(torch.tensor([ids]))
    blocks, thoughts_in = [], [x[:, -1]]
    for step in range(n_steps + 1):
        states = torch.stack(lm(inputs_embeds=x, output_hidden_states=True).hidden_states, 1)[:, :, -1]
        blocks.append(states)
        if step < n_steps:
            z = prj(states[:, -1])
            thoughts_in.append(z)
            x = torch.cat([x, z[:, None]], 1)
    x = torch.cat([x, table(torch.tensor([[fake.n_vocab + 2, *eos]]))], 1)
    states = torch.stack(blocks, 1)  # [1, passes, embedding and blocks, d]; the last is after the final norm
    return {
        "inner": states[0, :, 1:-1],
        "thought_out": states[0, :, -1],
        "thought_in": torch.cat(thoughts_in),
        "logits": lm(inputs_embeds=x).logits[0, -1],
        "inputs": x,
    }
