"""The keys of headline numbers as people say them."""

from __future__ import annotations

from thoughtlens.show.pages.plots import words

WHOLE = {
    "spliced_difference": "right answers with the SAE's reconstruction in place, minus untouched",
    "spliced_kl": "divergence of the answers with the reconstruction in place",
    "spliced_accuracy": "right answers with the SAE's reconstruction in place",
    "delta_ce": "loss added with the SAE's reconstruction in place",
    "ce_loss_score": "share of the loss that the reconstruction keeps",
    "fvu": "share of the variance that the SAE leaves unexplained",
    "explained_variance": "share of the variance that the SAE explains",
    "explained_variance_within": "the same, within each layer and thought",
    "l0": "latents that fire on a vector",
    "dead_share": "share of latents that never fire",
    "fvu_validation": "share of the variance unexplained, validation",
    "l0_validation": "latents that fire on a vector, validation",
    "dead_validation": "latents that never fire, validation",
    "n_latents": "latents",
    "n_alive": "latents that fire",
    "n_everywhere": "latents that fire nearly everywhere",
    "sae_minus_raw": "accuracy from latents minus accuracy from raw activations",
}
PARTS = {
    "finetune_kl_": "divergence that further training on it saved, beside the SAE: ",
    "finetune_delta_ce_": "loss that further training on the divergence saved, beside the SAE: ",
    "finetune_accuracy_": "right answers more after further training on the divergence, beside the SAE: ",
    "spliced_accuracy_": "right answers with another thing in place: ",
    "explained_variance_": "share of the variance explained by another thing: ",
    "accuracy_": "label read from: ",
    "r2_": "label predicted (R squared) from: ",
}


def named(key: str) -> str:
    """A headline number's key in words; one that has none without its underscores."""
    if key in WHOLE:
        return WHOLE[key]
    for begin, said in PARTS.items():
        if key.startswith(begin):
            return said + words(key.removeprefix(begin)).replace("_", " ")
    return key.replace("_", " ")
