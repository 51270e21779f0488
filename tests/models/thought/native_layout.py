"""Random models in the layout of three classes of transformers that think, and the publisher's loop.

Layout and loop as read in github.com/ModalityDance/LatentTTS: `src/models/{codi,coconut,colar}.py`,
`src/generation_mixin.py` (`check_if_latent_sequence`, `_sample`), `src/infer_gpt2.py`, `src/infer_llama.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.conftest import tiny_tokenizer
from tests.models.thought.fake import CONTEXT, N_STEPS

CLASSES = {"codi": "CODIGPT2", "coconut": "COCONUTGPT2", "colar": "ColarLlama"}
TOKENS = {
    "latent_id": "<|latent|>",
    "latent_start_id": "<|start-latent|>",
    "latent_end_id": "<|end-latent|>",
}
AFTER = {"codi": "", "coconut": "\n"}


@dataclass
class Published:
    """A folder as the publisher's, and the modules that its weights came from."""

    folder: Path
    lm: GPT2LMHeadModel
    projector: nn.Module | None
    tokenizer: PreTrainedTokenizerFast
    ids: dict[str, int]
    kind: str

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    def save(self, tensors: dict[str, torch.Tensor]) -> None:
        save_file({k: v.contiguous() for k, v in tensors.items()}, self.folder / "model.safetensors")

    def config(self, **changed) -> None:
        """Change fields of config.json; None takes one away."""
        file = self.folder / "config.json"
        table = json.loads(file.read_text()) | changed
        file.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))


def make_native(folder: Path, kind: str, *, ids_in_config: bool = True, seed: int = 0) -> Published:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([*TOKENS.values()][::-1], special_tokens=True)  # end, start, latent
    ids = {field: tokenizer.convert_tokens_to_ids(token) for field, token in TOKENS.items()}
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    lm = GPT2LMHeadModel(config).eval()
    projector = None
    if kind == "codi":
        projector = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 32), nn.LayerNorm(32)
        ).eval()
    for module in (lm, projector) if projector else (lm,):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.5)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = Published(folder, lm, projector, tokenizer, ids, kind)
    own = {"projector": True, "projector_dropout": 0.1, "projector_hidden_size": 24} if projector else {}
    said = ids if ids_in_config else dict.fromkeys(ids, -100)
    made.config(architectures=[CLASSES[kind]], **own, **said)
    state = {key: x for key, x in lm.state_dict().items() if key != "lm_head.weight"}  # tied, as saved
    state |= {f"projector.{key}": x for key, x in projector.state_dict().items()} if projector else {}
    made.save(state)
    return made


@torch.no_grad()
def publishers_loop(made: Published, question: str, new_tokens: int) -> tuple[torch.Tensor, list[int]]:
    """`generate` without sampling, alone, without a cache: embeddings that were read, tokens of the answer.

    The next token is `<|latent|>` while the last is that or the start and fewer than N_STEPS stand there.
    """
    latent, start, end = (made.ids[field] for field in TOKENS)
    table = made.lm.get_input_embeddings()
    ids = made.tokenizer(question + AFTER[made.kind] + "<|start-latent|>")["input_ids"]
    x, n_read = table(torch.tensor([ids])), len(ids)
    while len(ids) < n_read + N_STEPS + 1 + new_tokens:
        out = made.lm(inputs_embeds=x, output_hidden_states=True)
        token = int(out.logits[0, -1].argmax())
        done = ids[-N_STEPS:] == [latent] * N_STEPS
        if done:
            token = end
        elif end not in ids and ids[-1] in (start, latent):
            token = latent
        ids.append(token)
        embedding = table(torch.tensor([[0 if token == latent else token]]))
        if token == latent and not done and end not in ids:
            u = out.hidden_states[-1][:, -1:]
            embedding = made.projector(u) if made.projector else u
        x = torch.cat([x, embedding], 1)
        if token == made.tokenizer.eos_token_id:
            break
    said = ids[n_read + N_STEPS + 1 :]
    eos = made.tokenizer.eos_token_id
    return x[0, n_read - 1 : n_read + N_STEPS], said[: said.index(eos)] if eos in said else said


SPEED = "Question: {} Let's think step by step:(Thinking speed: 2)###"


class Head(nn.Module):
    """`LatentHead` of the publisher's class."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.mean = nn.Linear(width, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(self.fc(x))


def make_colar(folder: Path, *, seed: int = 2) -> Published:
    """`###` is often the likeliest token, so that problems stop, each at its own thought."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["###", "<|latent|>"])
    ids = {"latent_end_id": tokenizer.convert_tokens_to_ids("###"), "latent_start_id": -1}
    ids["latent_id"] = tokenizer.convert_tokens_to_ids("<|latent|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, bos_token_id=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=240, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    lm, head = LlamaForCausalLM(config).eval(), Head(32, 24).eval()
    for parameter in (*lm.parameters(), *head.parameters()):
        nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
    lm.lm_head.weight.data[ids["latent_end_id"]] *= 3.0
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = Published(folder, lm, head, tokenizer, ids, "colar")
    made.config(architectures=["ColarLlama"], latent_intermediate_size=24, latent_embedding_std=0.5, **ids)
    made.save({**lm.state_dict(), **{f"lt_head.{key}": x for key, x in head.state_dict().items()}})
    return made


@torch.no_grad()
def colars_loop(made: Published, question: str, most: int, new_tokens: int) -> tuple[torch.Tensor, list[int]]:
    """`generate` without sampling, alone, without a cache: embeddings of the thoughts, tokens of the answer.

    A problem thinks while no second `###` stands there; after `most` thoughts it is said for it, as in
    CoLaR's own `latent_generate` (github.com/xiaomi-research/colar, `src/models/model_base.py`).
    """
    latent, end, eos = made.ids["latent_id"], made.ids["latent_end_id"], made.tokenizer.eos_token_id
    table = made.lm.get_input_embeddings()
    ids = made.tokenizer(SPEED.format(question), add_special_tokens=False)["input_ids"]
    x, n_read, thoughts, said = table(torch.tensor([ids])), len(ids), 0, []
    while len(said) < new_tokens:
        out = made.lm(inputs_embeds=x, output_hidden_states=True)
        token = int(out.logits[0, -1].argmax())
        if ids.count(end) < 2:
            token = end if thoughts == most or token == end else latent
            embedding = made.projector(out.hidden_states[-1][:, -1:]) * 0.5
            thoughts += token == latent
        else:
            said.append(token)
        if token != latent or ids.count(end) >= 2:
            embedding = table(torch.tensor([[0 if token == latent else token]]))
        ids.append(token)
        x = torch.cat([x, embedding], 1)
        if said and token == eos:
            return x[0, n_read - 1 : n_read + thoughts], said[:-1]
    return x[0, n_read - 1 : n_read + thoughts], said
