"""Thought models as plain transformers: the whole sequence again at every thought, attention by hand."""

from __future__ import annotations

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from tests.conftest import tiny_tokenizer
from tests.models.thought.fake import ALPHA, N_STEPS, make_codi, save_base
from thoughtlens.models.thought import coconut, codi

CUT: set[tuple[int, int, int]] = set()
"""(layer, query, key) that the plain computation goes without."""


def by_hand(module, query, key, value, mask, scaling=None, **rest):
    """Attention as written in a textbook, in which some edges are cut."""
    n_rep = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(n_rep, 1), value.repeat_interleave(n_rep, 1)
    scores = query @ key.transpose(-1, -2) * scaling
    n = scores.shape[-1]
    scores = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
    for layer, q, k in CUT:
        if layer == module.layer_idx and q < n:
            scores[:, :, q, k] = -torch.inf
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("by_hand", by_hand)


class Plain:
    """A thought model as plain transformers: the whole sequence again at every thought, one question."""

    def __init__(self, lm, feed_back, begin, end, ask=lambda question: question):
        self.lm, self.feed_back, self.begin, self.end, self.ask = lm.eval(), feed_back, begin, end, ask

    @torch.no_grad()
    def think(self, question, implementation="eager"):
        """Weights [layers, heads, all positions, all positions], logits of the answer, tokens read before."""
        inner = getattr(self.lm, "base_model", self.lm)
        inner = getattr(inner, "model", inner) if hasattr(self.lm, "peft_config") else self.lm
        inner.set_attn_implementation(implementation)
        table = self.lm.get_input_embeddings()
        ids = tiny_tokenizer()(self.ask(question))["input_ids"]
        x = table(torch.tensor([[*ids, self.begin]]))
        for _ in range(N_STEPS):
            u = self.lm(inputs_embeds=x, output_hidden_states=True).hidden_states[-1][:, -1:]
            x = torch.cat([x, self.feed_back(u)], 1)
        x = torch.cat([x, table(torch.tensor([[self.end]]))], 1)
        out = self.lm(inputs_embeds=x, output_attentions=True)
        return torch.stack(out.attentions)[:, 0], out.logits[0, -1], len(ids)


def make(family, root):
    """A CODI or a Coconut, and the same as plain transformers."""
    kind, base = family.split("-")
    if kind == "codi":
        fake = make_codi(root / family, base)
        model = codi.load(fake.file, base=fake.base, lora_alpha=ALPHA, eos_before=False, eos_after=False)
        return model, Plain(fake.wrapper.codi, fake.wrapper.prj, fake.n_vocab + 1, fake.n_vocab + 2)
    torch.manual_seed(0)
    folder = save_base(root / family / "base", base)
    config = type(AutoModelForCausalLM.from_config)

    config = AutoConfig.from_pretrained(folder)
    n = config.vocab_size
    config.vocab_size += 3
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    file = root / family / "coconut_33"
    torch.save({f"base_causallm.{key}": value for key, value in lm.state_dict().items()}, file)
    model = coconut.load(file, base=folder, n_thoughts=N_STEPS)
    return model, Plain(lm, lambda u: u, n, n + 1, lambda question: f"{question}\n")


PAIRS = ["codi-gpt2", "codi-llama", "coconut-gpt2", "coconut-llama"]
