"""What a latent writes, in words: its decoder row through the final norm and the unembedding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtlens.core import MismatchError, column_table
from thoughtlens.latents.codes.readout import Readout
from thoughtlens.latents.lens.records import LatentLogitsRow, LatentTokenRow
from thoughtlens.sae import SAE, Crosscoder

DEFINITION = (
    "readout(decoder row) - readout(0): what one unit of the latent adds to the logits if the norm's scale "
    "is that of the row alone; sign -1: the tokens that it suppresses most"
)
BINS = 40
"""Of a histogram of logits."""


@torch.no_grad()
def latent_tables(readout: Readout, name: str, sae: SAE, k: int) -> tuple[pa.Table, pa.Table]:
    """The k tokens that each decoder row raises and lowers most, and histograms; rows of zeros have none.

    The bias of the norm, which would be the same for every latent, is taken out. A crosscoder's latents
    are read at its last site, a transcoder's where it writes.

    Returns:
        A row for each latent, sign and rank, latents ascending; a row for each latent, with how many tokens
        its decoder row changes by how much.

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
    k, n = min(k, readout.n_vocab), len(live)
    # Parts kept one by one would lie in the way of the next logits: the process would grow by all of them.
    tokens, values = torch.empty(n, 2, k, dtype=torch.long), torch.empty(n, 2, k)
    counts = torch.empty(n, BINS, dtype=torch.long)
    for at in torch.arange(n).split(readout.chunk):
        logits = (readout.logits(directions[live[at]], hook) - base).cpu()
        raised, lowered = logits.topk(k, dim=1), (-logits).topk(k, dim=1)
        tokens[at] = torch.stack([raised.indices, lowered.indices], 1)
        values[at] = torch.stack([raised.values, -lowered.values], 1)
        counts[at] = _histograms(logits)
    token = tokens.flatten().numpy()
    most = column_table(
        LatentTokenRow,
        {
            "member": name,
            "latent": np.repeat(live.numpy(), 2 * k),
            "sign": np.tile(np.repeat([1, -1], k), n),
            "rank": np.tile(np.arange(k), 2 * n),
            "token_id": token,
            "token": np.array(readout.texts, object)[token],
            "logit": values.flatten().numpy(),
        },
    )
    low, high = values[:, 1, 0].numpy(), values[:, 0, 0].numpy()
    spread = {"member": name, "latent": live.numpy(), "low": low, "high": high}
    return most, column_table(LatentLogitsRow, spread | {"counts": counts.numpy()})


def _histograms(logits: Float[Tensor, "n vocab"]) -> Int[Tensor, "n bins"]:
    """Tokens in equal bins from each row's lowest logit to its highest."""
    low, high = logits.aminmax(dim=1, keepdim=True)
    at = ((logits - low) * (BINS / (high - low).clamp_min(1e-30))).int().clamp_(max=BINS - 1)
    at += BINS * torch.arange(len(at), dtype=torch.int32)[:, None]
    return at.flatten().bincount(minlength=BINS * len(at)).view(-1, BINS)


def _directions(sae: SAE) -> tuple[Float[Tensor, "d_sae d"], str]:
    W = sae.W_dec.detach().float()
    return (W[:, -1] if isinstance(sae, Crosscoder) and W.ndim == 3 else W), sae.hook_names[-1]
