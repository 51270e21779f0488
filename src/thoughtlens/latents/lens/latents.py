"""What a latent writes, in words: its decoder row through the final norm and the unembedding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from thoughtlens.core import MismatchError
from thoughtlens.latents.lens.readout import Readout
from thoughtlens.sae.base import SAE
from thoughtlens.sae.kinds.crosscoder import Crosscoder

DEFINITION = (
    "readout(decoder row) - readout(0): what one unit of the latent adds to the logits if the norm's scale "
    "is that of the row alone; sign -1: the tokens that it speaks against most"
)


@torch.no_grad()
def latent_table(readout: Readout, name: str, sae: SAE, k: int) -> pa.Table:
    """The k tokens that each decoder row raises and lowers most; rows of zeros have none.

    The bias of the norm, which would be the same for every latent, is taken out. A crosscoder's latents
    are read at its last site, a transcoder's where it writes.

    Raises:
        MismatchError: decoder rows of another width than the model's final norm reads.
    """
    directions, hook = _directions(sae)
    if directions.shape[1] != readout.d:
        raise MismatchError(
            f"SAE {name!r} writes width {directions.shape[1]}, the model's final norm reads {readout.d}: it "
            f"was trained on another model, or not on the residual stream"
        )
    live = torch.nonzero(directions.norm(dim=1) > 0)[:, 0]
    base = readout.logits(torch.zeros(1, readout.d), hook)
    k = min(k, readout.n_vocab)
    ids, logits = [], []
    for part in live.split(readout.chunk):
        found = (readout.logits(directions[part], hook) - base).cpu()
        for sign in (1, -1):
            values, tokens = (sign * found).topk(k, dim=1)
            ids.append(tokens.numpy())
            logits.append(sign * values.numpy())
    return _table(readout, name, live.split(readout.chunk), ids, logits, k)


def _directions(sae: SAE) -> tuple[Float[Tensor, "d_sae d"], str]:
    W = sae.W_dec.detach().float()
    return (W[:, -1] if isinstance(sae, Crosscoder) and W.ndim == 3 else W), sae.hook_names[-1]


def _table(
    readout: Readout, name: str, parts: tuple[Tensor, ...], ids: list, logits: list, k: int
) -> pa.Table:
    """One line a latent, sign and rank, latents ascending."""
    latent = np.concatenate([np.repeat(part.numpy(), k) for part in parts for _ in (1, -1)] or [[]])
    sign = np.concatenate([np.full(len(part) * k, s) for part in parts for s in (1, -1)] or [[]])
    token = np.concatenate([i.reshape(-1) for i in ids] or [[]]).astype(np.int32)
    rank = np.tile(np.arange(k), len(token) // max(k, 1))
    order = np.lexsort((rank, -sign, latent))
    texts = np.array(readout.texts, object)
    return pa.table(
        {
            "member": pa.array([name] * len(order), pa.string()).dictionary_encode(),
            "latent": latent[order].astype(np.int32),
            "sign": sign[order].astype(np.int8),
            "rank": rank[order].astype(np.int32),
            "token_id": token[order],
            "token": pa.array(texts[token[order]], pa.string()),
            "logit": np.concatenate([v.reshape(-1) for v in logits] or [[]])[order].astype(np.float32),
        }
    )
