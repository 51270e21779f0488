"""An SAE as the runners of SAEBench and sae-probes want one: with SAELens's names, for one hook."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thoughtlens.core import HookError, MismatchError
from thoughtlens.sae import SAE, layer_of, to_lens


@dataclass
class LensConfig:
    """The settings that these runners read, under the names they read them by; they add some of their own."""

    model_name: str
    """TransformerLens's name of the model."""
    d_in: int
    d_sae: int
    hook_name: str
    """TransformerLens's name of the hook."""
    hook_layer: int
    architecture: str
    """This project's kind of SAE."""
    dtype: str
    device: str
    context_size: int = 128
    prepend_bos: bool = True
    """Whether the runner puts a begin-of-sequence token before each text."""
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = False
    normalize_activations: str = "none"
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    finetuning_scaling_factor: bool = False
    exclude_special_tokens: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)


class LensSAE(nn.Module):
    """An SAE whose decoder rows have length 1, with latents in units of what they write.

    The same reconstructions; SAEBench brings SAELens's own SAEs to this form, too. `W_enc`, `b_enc`, `W_dec`
    and `b_dec` are what its weight metrics look at, `encode` and `decode` what everything else calls.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    length: Tensor

    def __init__(self, sae: SAE, cfg: LensConfig, hook_name: str) -> None:
        super().__init__()
        self.sae, self.cfg, self.here = sae, cfg, sae.at(hook_name)
        with torch.no_grad():
            spread, mean = torch.ones(()), torch.zeros(())
            if sae.normalization is not None:
                row = 0 if self.here.cell is None else self.here.cell
                spread, mean = sae.normalization.spread[row], sae.normalization.mean[row]
            length = (sae.W_dec.norm(dim=1) * spread).clamp(min=1e-8)
            self.register_buffer("length", length)
            self.register_buffer("W_enc", sae.W_enc * length / spread)
            self.register_buffer("W_dec", sae.W_dec * spread / length[:, None])
            self.register_buffer("b_enc", sae.b_enc * length)
            self.register_buffer("b_dec", sae.b_dec * spread + mean)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.sae.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.sae.W_enc.dtype

    def _apply(self, fn: Any, recurse: bool = True) -> LensSAE:
        super()._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).removeprefix("torch.")
        return self

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Activations of all latents, in units of what each writes."""
        return self.here.encode(x) * self.length

    def decode(
        self, acts: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction; SAEs that normalise each row also need the input `x`."""
        return self.here.decode(acts.to(self.dtype) / self.length, x)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """x_hat."""
        return self.decode(self.encode(x), x)


def as_sae_lens(
    sae: SAE,
    *,
    model_name: str | None = None,
    hook_name: str | None = None,
    context_size: int = 128,
    prepend_bos: bool = True,
) -> LensSAE:
    """The SAE as an object that the runners of SAEBench and sae-probes take.

        sae = as_sae_lens(saes.load("runs/a/sae"), model_name="gpt2")
        run_sae_evals(sae, model_name=sae.cfg.model_name, hook_name=sae.cfg.hook_name, ...)

    Args:
        sae: An SAE that reconstructs its own input. Its weights are shared, not copied.
        model_name: TransformerLens's name of the model; unset: the model of the SAE's training.
        hook_name: Hook of this project, such as layers.8:out; unset: where the SAE was trained.
        context_size: Tokens of a text that the runner should read.
        prepend_bos: Whether it should put a begin-of-sequence token before each.

    Raises:
        MismatchError: a transcoder or crosscoder, or a model that is not known.
        HookError: several hooks and none chosen, or one that TransformerLens has no name for.
    """
    if not sae.reconstructs:
        raise MismatchError(f"Expected an SAE that reconstructs its own input, got a {sae.kind}")
    if hook_name is None and len(sae.hook_names) != 1:
        raise HookError(
            f"hook_name: expected one of {', '.join(sae.hook_names) or 'those of the model'}, none was chosen"
        )
    hook = hook_name or sae.hook_names[0]
    model = model_name or sae.provenance.get("model")
    if not model:
        raise MismatchError("model_name: expected TransformerLens's name of the model, the SAE says none")
    theirs, layer = to_lens(hook, str(model)), layer_of(hook)
    if theirs is None or layer is None:
        raise HookError(
            f"TransformerLens has no name for {hook!r} of {model}; it has those of layers.N:out and :in, "
            f"and of what attention and MLP add to the stream"
        )
    cfg = LensConfig(
        model_name=str(model), d_in=sae.d_in, d_sae=sae.d_sae, hook_name=theirs, hook_layer=layer,
        architecture=sae.kind, dtype=str(sae.W_enc.dtype).removeprefix("torch."),
        device=str(sae.W_enc.device), context_size=context_size, prepend_bos=prepend_bos,
    )  # fmt: skip
    return LensSAE(sae, cfg, hook).eval()
