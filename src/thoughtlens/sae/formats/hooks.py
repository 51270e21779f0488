"""Hook names of other libraries in this project's words, and back.

A name without a counterpart is kept as it is given; the stages then refuse it by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LENS = (
    ("blocks.{}.hook_resid_post", "layers.{}:out"),
    ("blocks.{}.hook_resid_pre", "layers.{}:in"),
    ("blocks.{}.hook_mlp_out", "layers.{}.mlp:out"),
    ("blocks.{}.hook_attn_out", "layers.{}.attn:out"),
    ("hook_embed", "embed:out"),
)
"""TransformerLens's names, which SAELens goes by, and ours."""
DICTIONARY = (("resid_post_layer_{}", "layers.{}:out"),)
GEMMA_SITES = {
    "res": "layers.{}:out",
    "mlp": "layers.{}.post_feedforward_layernorm:out",
    "att": "layers.{}.self_attn.o_proj:in",
}
"""Sites of Gemma Scope's repositories; its MLP output is the one after the second norm."""
PARTS = ((".self_attn", ".attn"), (".attention", ".attn"), (".feed_forward", ".mlp"))


def is_ours(name: str) -> bool:
    """Whether a name has this project's form."""
    return re.fullmatch(r"[^:]+:(in|out)", name) is not None


def from_lens(name: str | None) -> str | None:
    """`blocks.8.hook_resid_post` as `layers.8:out`."""
    return _translate(name, LENS)


def to_lens(name: str | None) -> str | None:
    """`layers.8:out` as `blocks.8.hook_resid_post`."""
    usual = name
    for theirs, ours in PARTS:
        usual = None if usual is None else usual.replace(theirs + ":", ours + ":")
    found = _translate(usual, [(ours, theirs) for theirs, ours in LENS])
    return name if found == usual else found


def from_dictionary(submodule: str | None) -> str | None:
    """dictionary_learning's `resid_post_layer_8` as `layers.8:out`; other names are its user's own."""
    return _translate(submodule, DICTIONARY)


def to_dictionary(name: str | None) -> str | None:
    """`layers.8:out` as `resid_post_layer_8`."""
    return _translate(name, [(ours, theirs) for theirs, ours in DICTIONARY])


def from_hf(point: str | None) -> str | None:
    """Gemma Scope 2's `model.layers.5.mlp.output` as `layers.5.mlp:out`."""
    found = re.fullmatch(r"(?:model\.)?(?:language_model\.)?(.+)\.(in|out)put", point or "")
    return f"{found[1]}:{found[2]}" if found else point


def to_hf(name: str | None) -> str | None:
    """`layers.5.mlp:out` as `model.layers.5.mlp.output`."""
    found = re.fullmatch(r"(.+):(in|out)", name or "")
    return f"model.{found[1]}.{found[2]}put" if found else name


def from_folder(folder: str, *, transcoder: bool) -> tuple[str | None, str | None]:
    """Input and output hook of sparsify's folders, which are named by module; None where they are not."""
    if not re.fullmatch(r"([\w-]+\.)*(layers|h|blocks|block)\.\d+(\.[\w-]+)*", folder):
        return None, None
    return (f"{folder}:in", f"{folder}:out") if transcoder else (f"{folder}:out", None)


def to_folder(name: str | None) -> str | None:
    """The module of a hook."""
    found = re.fullmatch(r"(.+):(in|out)", name or "")
    return found[1] if found else None


def from_gemma_path(parts: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Model and hook of a file in a copy of Gemma Scope's repositories, where the folders still say."""
    for i, part in enumerate(parts):
        repo = re.fullmatch(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)(-\w+)?", part)
        layers = [found[1] for p in parts[i:] if (found := re.fullmatch(r"layer_(\d+)", p))]
        if repo and layers:
            suffix = "-it" if repo[2] == "it" else ""
            return f"google/gemma-2-{repo[1]}{suffix}", GEMMA_SITES[repo[3]].format(layers[0])
    return None, None


def layer_of(name: str | None) -> int | None:
    """The block that a hook is in."""
    found = re.search(r"(?:^|\.)(\d+)(?=[.:]|$)", name or "")
    return int(found[1]) if found else None


def _translate(name: str | None, pairs: Iterable[tuple[str, str]]) -> str | None:
    for source, target in pairs:
        if name is not None and (found := re.fullmatch(re.escape(source).replace(r"\{\}", r"(\d+)"), name)):
            return target.format(*found.groups())
    return name
