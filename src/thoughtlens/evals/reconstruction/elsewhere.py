"""What the library that an SAE is from would call and count: its own numbers beside those of this project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from thoughtlens.evals.heldout.records import Reconstructed, TextFidelity
from thoughtlens.evals.reconstruction.records import Elsewhere
from thoughtlens.sae import SAE

BATCHES = "centred on the mean of each batch there"
VARIANCE = "the variance of x - x_hat there, which a constant offset does not change"
LEGACY = "a mean over rows of each row's own share, centred on its batch"
ZEROS = "against zeros in the hook's place there, against the mean of its training rows here"
OWN_ERROR = "a mean over rows of each row's own error there, over its square"
BOS_TOO = "; its own evaluation replaces the begin-of-sequence position, too"


class _Pair(NamedTuple):
    """A number there, and the one here that it stands for."""

    theirs: str
    field: str
    ours: str
    why: str = ""


SAME_L0 = _Pair("l0", "l0", "l0")
THERE: dict[str, tuple[_Pair, ...]] = {
    "sae_lens": (
        SAME_L0,
        _Pair("explained_variance", "explained_variance", "explained_variance"),
        _Pair("explained_variance_legacy", "legacy_explained_variance", "explained_variance", LEGACY),
        _Pair("ce_loss_score", "ce_loss_score_zero", "ce_loss_score_mean", ZEROS + BOS_TOO),
    ),
    "dictionary_learning": (
        SAME_L0,
        _Pair("frac_variance_explained", "residual_variance_ev", "explained_variance", VARIANCE),
        _Pair("frac_recovered", "ce_loss_score_zero", "ce_loss_score_mean", ZEROS),
    ),
    "sparsify": (SAME_L0, _Pair("fvu", "fvu", "fvu", BATCHES)),
    "gemma_scope": (SAME_L0, _Pair("fvu", "fvu", "fvu"), _Pair("delta_loss", "delta_ce", "delta_ce")),
    "openai": (
        SAME_L0,
        _Pair("normalized_mean_squared_error", "openai_normalized_mse", "fvu", OWN_ERROR),
    ),
}
"""By format; what each library calls the share of variance, the number that fire, and what a splice costs."""
THERE["gemma_scope_2"] = THERE["gemma_scope"]


def elsewhere(sae: SAE, mine: Reconstructed, spliced: Sequence[object] | None) -> list[Elsewhere]:
    """The numbers of the library that an SAE is from; none of an SAE that was trained here."""
    imported = sae.provenance.get("imported")
    library = imported.get("format") if isinstance(imported, dict) else None
    row = next((r for r in spliced or () if isinstance(r, TextFidelity) and r.arm == "sae"), None)

    def value(field: str) -> float | None:
        return getattr(mine if hasattr(mine, field) else row, field, None)

    return [
        Elsewhere(
            library=str(library),
            name=pair.theirs,
            value=value(pair.field),
            ours=pair.ours,
            our_value=value(pair.ours),
            differs=pair.why,
        )
        for pair in THERE.get(str(library), ())
        if value(pair.field) is not None
    ]
