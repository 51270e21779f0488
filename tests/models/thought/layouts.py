"""Small random checkpoints in the layouts that publishers use, by hub id, and an independent loop over them.

Read, each at the newest stored commit: zhenyi4/codi (src/model.py, test.py), cywinski/codi (src/model.py,
train.py), InternLM/SIM-CoT (CODI/src/model.py, CODI/test.py, Coconut/coconut.py, Coconut/run.py),
connordilgren/are-lrms-easily-interpretable (src_codi_multimode/, models/multimode_codi/,
models/multimode_coconut/, args_*), facebookresearch/coconut (coconut.py, run.py),
bmarti44/research-pipeline (papers/coconut_curriculum_dissection: code/coconut.py, CHECKPOINTS.md),
Harvey-Yuan/innerthink (src/innerthink/codi.py, for cds-jb/codi_qwen3-8b-answer_only).
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from tests.conftest import tiny_tokenizer
from tests.models.thought.fake import ALPHA, RANK, TARGETS, save_base

BASES = {
    "gpt2": "openai-community/gpt2",
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen3": "Qwen/Qwen3-8B",
}


@dataclass
class Made:
    """A checkpoint in a cache of the hub, and what the loop needs to think with it."""

    name: str
    folder: Path
    base: Path
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    start: list[int]
    end: list[int]
    n_thoughts: int = 6
    feed: Callable[[Tensor], Tensor] = lambda u: u
    prompt: str = "{question}"
    banned: list[int] = field(default_factory=list)
    file: Path = Path()


@torch.no_grad()
def think(made: Made, question: str, n_answer: int = 4) -> tuple[Tensor, Tensor, list[int]]:
    """Thoughts [n, d], states of all blocks [n + 1, layers + 1, d] and greedy answer, without any cache."""
    table = made.lm.get_input_embeddings().weight
    ids = made.tokenizer(made.prompt.replace("{question}", question))["input_ids"]
    x, thoughts, states = table[[*ids, *made.start]][None], [], []
    for step in range(made.n_thoughts + 1):
        hidden = made.lm(inputs_embeds=x, output_hidden_states=True).hidden_states
        states.append(torch.stack([h[0, -1] for h in hidden]))
        if step < made.n_thoughts:
            thoughts.append(made.feed(states[-1][-1]))
            x = torch.cat([x, thoughts[-1][None, None]], 1)
    x, answer = torch.cat([x, table[made.end][None]], 1), []
    while len(answer) < n_answer:
        logits = made.lm(inputs_embeds=x).logits[0, -1]
        logits[made.banned] = -torch.inf
        token = int(logits.argmax())
        if token == made.tokenizer.eos_token_id:
            break
        answer.append(token)
        x = torch.cat([x, table[token][None, None]], 1)
    return torch.stack(thoughts) if thoughts else torch.empty(0), torch.stack(states), answer


def cached(root: Path, name: str) -> Path:
    """The folder of a hub id in a cache."""
    home = root / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40)
    folder = home / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base_in(root: Path, family: str, *, weights: bool = False, more: list[str] = []) -> Path:  # noqa: B006
    """The base model of a family by its hub id: config and tokenizer, and its weights where needed."""
    folder = cached(root, BASES[family])
    if not (folder / "config.json").is_file():
        folder.rmdir()
        save_base(folder, "gpt2" if family == "gpt2" else "llama", n_layers=2)
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": more})
        tokenizer.save_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        config.vocab_size = len(tokenizer)
        if family == "qwen3":  # more rows than words
            config = Qwen3Config(
                vocab_size=len(tokenizer) + 40, hidden_size=32, intermediate_size=48,
                num_hidden_layers=2, head_dim=8, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=160, eos_token_id=2, tie_word_embeddings=False,
            )  # fmt: skip
        config.save_pretrained(folder)
    if weights:
        lm = randomised(
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
        )
        lm.save_pretrained(folder)
    return folder


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
    return module.eval()


def resized(base: Path, rows: int) -> PreTrainedModel:
    """A base model with random weights and this many embedding rows."""
    config = AutoConfig.from_pretrained(base)
    config.vocab_size = rows
    return randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def projection(d: int = 32) -> nn.Sequential:
    prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(d, 24), nn.GELU(), nn.Linear(24, d))
    prj.add_module("ln", nn.LayerNorm(d))
    return randomised(prj)


def adapted(lm: PreTrainedModel, family: str) -> PreTrainedModel:
    """The same model with random LoRA around it."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=TARGETS["gpt2" if family == "gpt2" else "llama"],
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return randomised(get_peft_model(copy.deepcopy(lm), config))


def shards(tensors: dict[str, Tensor], folder: Path, stem: str = "model") -> Path:
    """Two shards with an index, as transformers leaves them."""
    names = sorted(tensors)
    files = [f"{stem}-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        save_file({k: tensors[k].clone() for k in names[i::2]}, folder / file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: files[i % 2] for i, k in enumerate(names)}}))
    return index


def codi_state(lm: PreTrainedModel, prj: nn.Module) -> dict[str, Tensor]:
    return {f"codi.{k}": v for k, v in lm.state_dict().items()} | {
        f"prj.{k}": v for k, v in prj.state_dict().items()
    }


def sim_cot(root: Path, size: str = "3B", extra: int = 3) -> Made:
    """SIM_COT-LLaMA3-CODI-3B and -8B: shards, an empty config.json, a decoder; the 8B with V+5 rows."""
    base = base_in(root, "llama")
    lower = base_in_as(root, base, f"meta-llama/Llama-3.{'2' if size == '3B' else '1'}-{size}-Instruct")
    n = len(tiny_tokenizer())
    lm, prj, folder = (
        adapted(resized(base, n + extra), "llama"),
        projection(),
        cached(root, f"internlm/SIM_COT-LLaMA3-CODI-{size}"),
    )
    state = codi_state(lm, prj) | {
        "decoder.lm_head.weight": torch.ones(3, 2),
        "pj_in.weight": torch.ones(2, 2),
    }
    del state["codi.base_model.model.lm_head.weight"]
    (folder / "config.json").write_text("")
    made = Made(
        f"internlm/SIM_COT-LLaMA3-CODI-{size}",
        folder,
        lower,
        lm,
        tiny_tokenizer(),
        [n + 1],
        [n + 2],
        feed=prj,
        banned=[n + 2],
    )
    made.file = shards(state, folder)
    return made


def base_in_as(root: Path, base: Path, name: str) -> Path:
    """The same base model under another id."""
    folder = cached(root, name)
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def multimode_codi(root: Path, family: str) -> Made:
    """Dilgren's multimode-codi: V+2 rows, padding is eos; on Llama `<|eot_id|>` ends the question."""
    base = base_in(root, family, more=["<|eot_id|>"] if family == "llama" else [])
    tokenizer = tokenizer_of(base)
    n, owner = len(tokenizer), "gpt2" if family == "gpt2" else "llama32-1b"
    lm, prj = adapted(resized(base, n + 2), family), projection()
    name = f"connordilgren/{owner}-gsm8k-multimode-codi"
    turn = [tokenizer.convert_tokens_to_ids("<|eot_id|>")] if family == "llama" else []
    made = Made(name, cached(root, name), base, lm, tokenizer, [*turn, n], [n + 1], feed=prj)
    made.file = made.folder / "pytorch_model.bin"
    torch.save(codi_state(lm, prj), made.file)
    return made


def named_tokens(root: Path) -> Made:
    """codi_qwen3-8b-answer_only: a row for each token of its own tokenizer, fewer than its base."""
    base, name = base_in(root, "qwen3"), "cds-jb/codi_qwen3-8b-answer_only"
    folder, tokenizer = cached(root, name), tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
    tokenizer.save_pretrained(folder)
    n = len(tokenizer)
    lm, prj = adapted(resized(base, n), "qwen3"), projection()
    made = Made(
        name, folder, base, lm, tokenizer, [tokenizer.eos_token_id, n - 2], [n - 1], feed=prj, banned=[n - 1]
    )
    made.file = folder / "pytorch_model.bin"
    torch.save(codi_state(lm, prj), made.file)
    return made


def adapter(root: Path) -> Made:
    """cds-jb/qwen3-8b-codi-*: what PEFT saves in `checkpoint-900`, with its projection beside it."""
    base, name = base_in(root, "gpt2", weights=True), "own/codi-adapter"
    folder, tokenizer = cached(root, name) / "checkpoint-900", tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(len(tokenizer))
    lm, prj, n = adapted(plain, "gpt2"), projection(), len(tokenizer)
    for key, value in lm.named_parameters():  # only LoRA and the embedding were trained
        if "lora_" not in key and "wte" not in key:
            value.data = dict(plain.named_parameters())[
                key.removeprefix("base_model.model.").replace(".base_layer", "")
            ].data
    lm.peft_config["default"].base_model_name_or_path = BASES["gpt2"]
    lm.save_pretrained(folder, save_embedding_layers=True)
    tokenizer.save_pretrained(folder)
    save_file({f"prj.{k}": v for k, v in prj.state_dict().items()}, folder / "prj.safetensors")
    (folder.parent / "codi_config.json").write_text(json.dumps({"num_latent": 5, "remove_eos": True}))
    return Made(
        f"{name}/checkpoint-900", folder, base, lm, tokenizer, [n - 2], [n - 1], 5, prj, banned=[n - 1],
        file=folder / "adapter_model.safetensors",
    )  # fmt: skip


def coconut_state(lm: PreTrainedModel) -> dict[str, Tensor]:
    state = {f"base_causallm.{k}": v for k, v in lm.state_dict().items()}
    return state | {"embedding.weight": lm.get_input_embeddings().weight.data}


def coconut(root: Path, name: str, family: str, inner: str = "checkpoint_33", *, pause: bool = False) -> Made:
    """A state dict `checkpoint_N` of Coconut's training; a control has its learned pause in it."""
    multimode = "multimode" in name
    base = base_in(root, family, more=["<|eot_id|>"] if family == "llama" else [])
    tokenizer = tokenizer_of(base)
    n, folder = len(tokenizer), cached(root, name)
    lm = resized(base, n + 3)
    state, vector = coconut_state(lm), torch.randn(32)
    turn = [tokenizer.convert_tokens_to_ids("<|eot_id|>")] if family == "llama" and multimode else []
    made = Made(
        f"{name}/{inner}",
        folder,
        base,
        lm,
        tokenizer,
        [*turn, n],
        [n + 1],
        prompt="{question}\n",
        file=folder / inner,
    )
    if pause:
        state["pause_embedding"], made.feed = vector, lambda u: vector
    made.file.parent.mkdir(exist_ok=True)
    torch.save(state, made.file)
    return made


def sim_coconut(root: Path) -> Made:
    """internlm/SIM_COT-GPT2-Coconut: `checkpoint_28` with the explaining decoder in it; ten thoughts."""
    made = coconut(root, "internlm/SIM_COT-GPT2-Coconut", "gpt2", "checkpoint_28")
    made.name, made.n_thoughts = "internlm/SIM_COT-GPT2-Coconut", 10
    state = torch.load(made.file, weights_only=True)
    torch.save(state | {f"expainable_llm.{k}": v for k, v in made.lm.state_dict().items()}, made.file)
    return made


def curriculum(root: Path, which: str) -> Made:
    """bmarti44/coconut-curriculum-checkpoints: one folder for each model, with its config beside the file."""
    made = coconut(
        root,
        "bmarti44/coconut-curriculum-checkpoints",
        "gpt2",
        f"{which}/checkpoint_best",
        pause="pause" in which,
    )
    mode = {"coconut": "continuous", "pause-multipass": "pause_multipass"}[which]
    made.file.with_name("config.json").write_text(
        json.dumps({"feedback_mode": mode, "base_model": BASES["gpt2"]})
    )
    made.file.with_name("prosqa.yaml").write_text("c_thought: 1\nmax_latent_stage: 6\n")
    return made


def stated_codi(root: Path) -> Made:
    """A CODI whose `codi_config.json` says its settings (as simon-pltk/codi-gpt2-prontoqa-latent)."""
    base, name = base_in(root, "gpt2"), "own/codi-gpt2-prontoqa-latent"
    n, prj, folder = len(tiny_tokenizer()), projection(), cached(root, name)
    lm = adapted(resized(base, n + 3), "gpt2")
    table = {
        "num_latent": 3,
        "lora_alpha": ALPHA,
        "remove_eos": False,
        "base_model": BASES["gpt2"],
        "prompt_template": "Q: {question}",
    }
    (folder / "codi_config.json").write_text(json.dumps(table))
    tokenizer = tiny_tokenizer()
    eos = int(tokenizer.eos_token_id)
    made = Made(
        name, folder, base, lm, tokenizer, [eos, n + 1], [n + 2, eos], 3, prj, "Q: {question}", [n + 2]
    )
    made.file = folder / "pytorch_model.bin"
    torch.save(codi_state(lm, prj), made.file)
    return made


class Filter(nn.Module):
    """`RecurrentFilterMLP` of apning/adaptive-latent-reasoning, src/modeling_utils.py."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer, self.output_layer, self.norm = (
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            nn.LayerNorm(32),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.output_layer(nn.functional.gelu(self.input_layer(x))))


def adaptive(root: Path) -> Made:
    """Lapisbird/Llama-adaLR-model-latent-6: rows rounded up, ids and filter in config.json, a stop head."""
    name = "Lapisbird/Llama-adaLR-model-latent-6"
    base, folder, tokenizer = base_in(root, "llama"), cached(root, name), tiny_tokenizer()
    marks = ["<START>", "<END>", "<|CONTINUE|>", "<|STOP|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    n = len(tokenizer)
    lm, prj = resized(base, -(-n // 128) * 128), randomised(Filter())
    ids = dict(zip(["start", "end", "continue", "stop"], range(n - 4, n), strict=True))
    inserted = {"recurrent_filter_mode": "MLP", **{f"{key}_token_id": i for key, i in ids.items()}}
    lm.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    table = json.loads((folder / "config.json").read_text()) | {
        "_inserted_LatentThinkingModelSettings": inserted
    }
    (folder / "config.json").write_text(json.dumps(table))
    state = {f"_base_model.{key}": x for key, x in lm.state_dict().items() if key != "lm_head.weight"}
    state |= {f"recurrent_filter.{key}": x for key, x in prj.state_dict().items()}
    save_file({key: x.clone() for key, x in state.items()}, folder / "model.safetensors")
    banned = [n - 3, n - 2, n - 1]
    return Made(
        name, folder, base, lm, tokenizer, [n - 4], [n - 3], feed=prj, banned=banned,
        file=folder / "model.safetensors",
    )  # fmt: skip


THREE_MODES = "connordilgren/llama32-1b-prosqa-multimode-coconut"
LAYOUTS: dict[str, Callable[[Path], Made]] = {
    "shards": sim_cot,
    "V+5 rows": lambda root: sim_cot(root, "8B", 5),
    "three modes": lambda root: multimode_codi(root, "gpt2"),
    "three modes on a chat model": lambda root: multimode_codi(root, "llama"),
    "own tokenizer": named_tokens,
    "adapter": adapter,
    "stated settings": stated_codi,
    "coconut": lambda root: coconut(root, "connordilgren/gpt2-prosqa-coconut", "gpt2"),
    "coconut of three modes": lambda root: coconut(
        root, "connordilgren/llama32-1b-prosqa-multimode-coconut", "llama"
    ),
    "explained coconut": sim_coconut,
    "sub-folder": lambda root: curriculum(root, "coconut"),
    "adaptive": adaptive,
    "pause control": lambda root: curriculum(root, "pause-multipass"),
}
