"""Which latents fire on a text: what `thoughtlens fire RUN "text"` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.errors import ConfigError, MismatchError, NotThereError
from thoughtlens.explain.reading import Reading, TextReader
from thoughtlens.explain.tokens import token_texts
from thoughtlens.sae import SAE, load_members

DEFINITIONS = {
    "max": "largest activation of the latent over the text's tokens, special tokens left out",
    "l0": "mean over tokens of the number of latents with activation != 0",
    "share_active": "share of all latents that fire on at least one token of the text",
    "share_active_per_token": "l0 / d_sae",
    "everywhere": "flagged by interpret: fires on nearly everything, on first tokens or on outlier norms",
}


def fire(
    run: str | Path, texts: Sequence[str], *, member: str | None = None, top: int = 10
) -> dict[str, Any]:
    """Run texts through a finished run's model and SAE.

    Args:
        run: A run directory with `acts` and `sae`; with `interpret`, everywhere-latents are marked.
        texts: One or more texts.
        member: Which SAE, where the run has several.
        top: Strongest latents listed for each text.

    Returns:
        Per text its tokens, L0, share of active latents and strongest latents; and the latents that are
        among the strongest of every text. JSON-able.

    Raises:
        NotThereError: no such run, or a stage of it is missing.
        ConfigError: several SAEs and no `member`, or an unknown one.
        DataError: an empty text.
    """
    run = Path(run)
    if not run.is_dir():
        raise NotThereError(f"Expected a run directory at {run}, found none; make one with: thoughtlens run")
    name, sae = _pick(load_members(run / "sae"), member)
    reader = TextReader.like(run / "acts")
    if sae.provenance.get("model_digest") not in (None, reader.lm.digest):
        raise MismatchError(f"The SAE in {run / 'sae'} was trained on another model than {reader.lm.name}")
    flags = _everywhere(run / "interpret", name, sae.d_sae)
    found = [_text(reader, sae, reading, flags, top) for reading in reader.read(texts, sae.hook_names)]
    for one in found:
        one["text"] = texts[one["index"]]
    found.sort(key=lambda one: one["index"])
    strongest = [{latent["latent"] for latent in one["latents"]} for one in found]
    return {
        "run": str(run),
        "model": reader.lm.name,
        "hook_names": sae.hook_names,
        "member": name,
        "d_sae": sae.d_sae,
        "definitions": DEFINITIONS,
        "everywhere_known": flags is not None,
        "shared_latents": sorted(set.intersection(*strongest)) if len(found) > 1 else [],
        "texts": found,
    }


def render(result: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{result['model']}, {', '.join(result['hook_names'])}, {result['d_sae']:,} latents"]
    for one in result["texts"]:
        lines += ["", f"{one['text']!r}"]
        lines.append(
            f"  L0 {one['l0']:.1f} latents a token, {one['share_active_per_token']:.2%} of all "
            f"(n = {one['n_tokens']} tokens); {one['n_active']:,} latents ({one['share_active']:.1%}) "
            f"fire on at least one token"
        )
        for latent in one["latents"]:
            mark = f"  everywhere ({latent['everywhere']})" if latent["everywhere"] else ""
            lines.append(
                f"  {latent['latent']:>7}  max {latent['max']:8.3f} on {latent['token']!r:<14} "
                f"fires on {latent['n_tokens']}/{one['n_tokens']} tokens{mark}"
            )
    if len(result["texts"]) > 1:
        shared = result["shared_latents"]
        names = ", ".join(map(str, shared)) if shared else "none"
        lines += ["", f"Among the strongest of every text: {names}"]
    if not result["everywhere_known"]:
        lines.append("Everywhere-latents are not marked: the run has no interpret stage")
    return "\n".join(lines)


def _pick(members: dict[str, SAE], member: str | None) -> tuple[str, SAE]:
    if member is None and len(members) == 1:
        return next(iter(members.items()))
    if member not in members:
        raise ConfigError(f"member: expected one of {', '.join(members)}, got {member!r}")
    return member, members[member]


def _everywhere(interpret: Path, name: str, d_sae: int) -> list[str | None] | None:
    """Why each latent counts as firing everywhere (None: it does not); None without the table."""
    file = interpret / "latents.parquet"
    if not file.is_file():
        return None
    table = pq.read_table(file, columns=["member", "latent", "everywhere_reason"]).to_pylist()
    flags: list[str | None] = [None] * d_sae
    for row in table:
        if row["member"] == name:
            flags[row["latent"]] = row["everywhere_reason"]
    return flags


def encode(sae: SAE, hook_name: str, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_sae"]:
    """Latents on token rows of one hook, float32."""
    cell = sae.cell_index([(hook_name, None)], torch.zeros(len(x), dtype=torch.long))
    return sae.encode(x.to(sae.W_enc.dtype), cell).float()


@torch.no_grad()
def _text(
    reader: TextReader, sae: SAE, reading: Reading, flags: list[str | None] | None, top: int
) -> dict[str, Any]:
    acts = torch.stack([encode(sae, hook, reading.acts[hook]) for hook in sae.hook_names])
    names = token_texts(reader.lm.tokenizer, reading.token_ids)
    tokens = [names[int(t)] for t in reading.token_ids]
    per_token = acts.amax(0)
    best, at = per_token.max(0)
    order = np.lexsort((np.arange(sae.d_sae), -best.numpy()))[:top]
    n_active = int((best > 0).sum())
    l0 = float((acts != 0).sum(-1).float().mean())
    return {
        "index": reading.index,
        "tokens": tokens,
        "n_tokens": len(tokens),
        "l0": l0,
        "l0_per_token": (acts != 0).sum(-1).float().mean(0).tolist(),
        "n_active": n_active,
        "share_active": n_active / sae.d_sae,
        "share_active_per_token": l0 / sae.d_sae,
        "latents": [
            {
                "latent": int(j),
                "max": float(best[j]),
                "token": tokens[int(at[j])],
                "token_idx": int(at[j]),
                "position": int(reading.position[int(at[j])]),
                "n_tokens": int((per_token[:, j] != 0).sum()),
                "everywhere": flags[j] if flags else None,
            }
            for j in order.tolist()
            if best[j] > 0
        ],
    }
