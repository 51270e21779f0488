"""The last token of every text: its activation in the model, and the latents that fire on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import ConfigError, DataError, HookError, MismatchError
from thoughtlens.evals.probing.matrices import Matrix, compact, stack
from thoughtlens.evals.suites.config import SuiteConfig
from thoughtlens.models import LanguageModel, read
from thoughtlens.problems import bos_id, token_ids
from thoughtlens.sae import SAE, Crosscoder, load, member_names, member_path

ROWS_AT_ONCE = 128


def load_sae(path: Path, member: str | None, hook_name: str | None) -> tuple[SAE, str]:
    """The SAE of a config, and the hook that it reads.

    Raises:
        ConfigError: several SAEs and none chosen, or no such one.
        HookError: it stands at several hooks, or at none that is known, and none was chosen.
        MismatchError: a crosscoder, which reads several hooks at once.
    """
    names = member_names(path)
    if member is None and len(names) > 1:
        raise ConfigError(f"member: expected one of {', '.join(names)} of {path}, none was chosen")
    name = names[0] if member is None else member
    if name not in names:
        raise ConfigError(f"member: expected one of {path} ({', '.join(names)}), got {name!r}")
    sae = load(member_path(path, name))
    if isinstance(sae, Crosscoder):
        raise MismatchError(f"Expected an SAE or a transcoder in {path}, got a crosscoder of several hooks")
    if hook_name is None and len(sae.hook_names) != 1:
        raise HookError(
            f"hook_name: expected one of {', '.join(sae.hook_names) or 'those of the model'}, none chosen, "
            f"and the SAE in {path} does not stand at exactly one"
        )
    return sae.eval(), hook_name or sae.hook_names[0]


@torch.no_grad()
def last_tokens(
    lm: LanguageModel, hook_name: str, texts: Sequence[str], cfg: SuiteConfig
) -> Float[Tensor, "n d_in"]:
    """Float32 activations at the last token of each text, of which the last tokens are read.

    Raises:
        DataError: a text without tokens.
        HookError: the model has no such hook.
    """
    found: Tensor | None = None
    tokens = _tokens(lm, texts, cfg)
    for batch in read(lm, tokens, [hook_name], batch_tokens=cfg.batch_tokens, at="last"):
        own = batch.acts[hook_name].float().cpu()
        found = torch.empty(len(texts), own.shape[1]) if found is None else found
        found[torch.tensor(batch.which)] = own
    assert found is not None
    return found


@torch.no_grad()
def latents(sae: SAE, hook_name: str, x: Float[Tensor, "n d_in"]) -> Matrix:
    """Activations of all latents, `[n, d_sae]` in float32; CSR where few of them fire."""
    here = sae.at(hook_name)
    return stack([compact(here.encode(rows).float().numpy()) for rows in x.split(ROWS_AT_ONCE)])


def _tokens(lm: LanguageModel, texts: Sequence[str], cfg: SuiteConfig) -> list[Int[np.ndarray, " n"]]:
    bos = bos_id(lm.tokenizer, cfg.bos)
    head = np.array([] if bos is None else [bos], np.int64)
    room = min(cfg.context_length, lm.context_length) - len(head)
    found = []
    for i, ids in enumerate(token_ids(lm.tokenizer, texts, bos)):
        tokens = ids[-room:].astype(np.int64)
        if not len(tokens):
            raise DataError(f"Expected text with at least one token, got {texts[i]!r} (row {i})")
        found.append(np.concatenate([head, tokens]))
    return found
