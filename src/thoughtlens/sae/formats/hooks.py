"""Hook names of other libraries in this project's words, and back.

What TransformerLens calls `hook_mlp_out` is another module in each architecture (`sites.py`), so these take
the model's name or directory. A name without a counterpart is kept as it is given; the stages then refuse it
by name.
"""

from __future__ import annotations

import re

from thoughtlens.sae.formats.sites import Sites, sites_of

NUMBERED = re.compile(
    r"(?!.*(?:vision|visual|audio|(?:^|\.)encoder\.))"  # a language model's blocks, not those of its eyes
    r"(?:[A-Za-z_]\w*\.)*?(?:layers|h|blocks|block)\.(\d+)((?:\.\w+)*)"
)
"""A module's path in a Hugging Face model, from any module around it on."""
EMBEDDINGS = ("embed", "embed_tokens", "embed_in", "wte", "word_embeddings")
ATTENTION = ("attn", "attention", "self_attn", "self_attention")
MLPS = ("mlp", "feed_forward", "ffn")
GEMMA_SITES = {
    "res": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "att": "blocks.{}.attn.hook_z",
    "transcoders": "blocks.{}.ln2.hook_normalized",
}
"""Sites of Gemma Scope's repositories. Transcoders read the stream's norm before its gain."""
DICTIONARY = (
    (r"resid_(?:post|out)_?layer_?(\d+)", "blocks.{}.hook_resid_post"),
    (r"resid_(?:pre|in)_?layer_?(\d+)", "blocks.{}.hook_resid_pre"),
    (r"mlp_out_?layer_?(\d+)", "blocks.{}.hook_mlp_out"),
    (r"attn_out_?layer_?(\d+)", "blocks.{}.hook_attn_out"),
)
"""Names that users of dictionary_learning give to modules, its own demonstrations among them."""
ASSUMED = ("hook_mlp_out", "hook_attn_out")
"""What is translated even where the architecture is not known, as most have it."""


def is_ours(name: str) -> bool:
    """Whether a name has this project's form."""
    return re.fullmatch(r"[^:]+:(in|out)", name) is not None


def from_lens(name: str | None, model: str | None = None) -> str | None:
    """`blocks.8.hook_mlp_out` as `layers.8.mlp:out`, or what it is in the model; Hugging Face's names too."""
    if name is None or is_ours(name):
        return name
    if "hook_" not in name:
        return from_module(name) or name
    known = sites_of(model)
    for theirs, ours in [*_table(known), *_bridge(known)]:
        if found := re.fullmatch(re.escape(theirs).replace(r"\{\}", r"(\d+)"), name):
            return ours.format(*found.groups())
    return name


def to_lens(name: str | None, model: str | None = None) -> str | None:
    """`layers.8:out` as `blocks.8.hook_resid_post`; None where TransformerLens has no such hook."""
    if name is None:
        return None
    wanted = meaning(name)
    for theirs, ours in _table(sites_of(model)):
        number = layer_of(name)
        if meaning(ours.format(number)) == wanted and ("{}" not in ours) == (number is None):
            return theirs.format(number)
    return None


def assumes(name: str | None, model: str | None) -> bool:
    """Whether the translation of a hook stands on an architecture that nobody stated."""
    return bool(name) and name.endswith(ASSUMED) and sites_of(model) is None  # type: ignore[union-attr]


def from_module(path: str, side: str = "out") -> str | None:
    """`gpt_neox.layers.8.mlp` as `layers.8.mlp:out`; None where it is no module of a language model."""
    if found := NUMBERED.fullmatch(path):
        return f"layers.{found[1]}{found[2]}:{side}"
    return f"embed:{side}" if path.rsplit(".", 1)[-1] in EMBEDDINGS else None


def to_module(name: str | None, model: str | None = None) -> str | None:
    """`layers.8.mlp:out` as a Hugging Face model calls it, `model.layers.8.mlp`; None: not known."""
    sites = sites_of(model)
    found = re.fullmatch(r"layers\.(\d+(?:\.\w+)*):out", name or "")
    return f"{sites.blocks}.{found[1]}" if found and sites else None


def meaning(name: str) -> str:
    """A hook name as all that mean the same module share it: without what stands around the blocks."""
    path, _, side = name.partition(":")
    usual = (from_module(path, side) if side else None) or name
    parts = re.split(r"([.:])", usual)
    return "".join("attn" if p in ATTENTION else "mlp" if p in MLPS else p for p in parts)


def from_dictionary(submodule: str | None, io: str | None = "out", model: str | None = None) -> str | None:
    """dictionary_learning's `resid_post_layer_8` as `layers.8:out`; a module's path with the side of `io`."""
    if submodule is None:
        return None
    for pattern, theirs in DICTIONARY:
        if found := re.fullmatch(pattern, submodule):
            return from_lens(theirs.format(found[1]), model)
    return from_module(submodule, "in" if io == "in" else "out") or from_lens(submodule, model)


def to_dictionary(name: str | None, model: str | None = None) -> str | None:
    """`layers.8:out` as `resid_post_layer_8`; others by module, whose side is in `io`."""
    theirs = to_lens(name, model)
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|resid_pre|mlp_out|attn_out)", theirs or "")
    if found:
        return f"{found[2]}_layer_{found[1]}"
    return name.partition(":")[0] if name else None


def from_hf(point: str | None) -> str | None:
    """Gemma Scope 2's `model.layers.5.mlp.output` as `layers.5.mlp:out`."""
    found = re.fullmatch(r"(.+)\.(in|out)put", point or "")
    return (from_module(found[1], found[2]) or f"{found[1]}:{found[2]}") if found else point


def to_hf(name: str | None) -> str | None:
    """`layers.5.mlp:out` as `model.layers.5.mlp.output`."""
    found = re.fullmatch(r"(.+):(in|out)", name or "")
    return f"model.{found[1]}.{found[2]}put" if found else name


def from_folder(folder: str, *, transcoder: bool) -> tuple[str | None, str | None]:
    """Input and output hook of sparsify's folders, which are named by module; None where they are not."""
    hook = from_module(folder, "in" if transcoder else "out")
    return hook, from_module(folder) if hook and transcoder else None


def to_folder(name: str | None) -> str | None:
    """The module of a hook."""
    found = re.fullmatch(r"(.+):(in|out)", name or "")
    return found[1] if found else None


def from_gemma_path(parts: tuple[str, ...]) -> tuple[str | None, str | None, bool]:
    """Model, hook, and whether it is a transcoder, of a file in a copy of Gemma Scope's repositories.

    The folders say it: of the repository, or of the hub's cache (`models--google--gemma-scope-...`).
    """
    for i, part in enumerate(parts):
        repo = re.fullmatch(r"(?:.*--)?gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)(-\w+)*", part)
        if not repo:
            continue
        model = f"google/gemma-2-{repo[1]}{'-it' if repo[2] == 'it' else ''}"
        if "embedding" in parts[i:]:
            return model, "embed:out", False
        layers = [found[1] for p in parts[i:] if (found := re.fullmatch(r"layer_(\d+)", p))]
        if layers:
            hook = from_lens(GEMMA_SITES[repo[3]].format(layers[0]), model)
            return model, hook, repo[3] == "transcoders"
    return None, None, False


def layer_of(name: str | None) -> int | None:
    """The block that a hook is in."""
    found = re.search(r"(?:^|\.)(\d+)(?=[.:]|$)", name or "")
    return int(found[1]) if found else None


def _table(known: Sites | None) -> list[tuple[str, str]]:
    """TransformerLens's names and ours, those that are written first."""
    block, lens = "layers.{}", "blocks.{}"
    pairs = [
        (f"{lens}.hook_resid_post", f"{block}:out"),
        (f"{lens}.hook_resid_pre", f"{block}:in"),
        ("hook_embed", known.embed if known else "embed:out"),
    ]
    if known is None:
        pairs += [(f"{lens}.hook_{part}_out", f"{block}.{part}:out") for part in ("mlp", "attn")]
    else:
        shown = (
            ("hook_mlp_out", known.mlp_out, "out"),
            ("hook_attn_out", known.attn_out, "out"),
            ("attn.hook_z", known.z, "in"),
            ("hook_resid_mid", known.mid, "in"),
            ("mlp.hook_post", known.post, "in"),
            ("mlp.hook_in", known.mlp, "in"),
        )
        pairs += [(f"{lens}.{hook}", f"{block}.{at}:{side}") for hook, at, side in shown if at]
    return pairs


def _bridge(known: Sites | None) -> list[tuple[str, str]]:
    """Further names of TransformerLens 3, which follow the model's own modules."""
    mlp = known.mlp if known else "mlp"
    attn = (known.attn_out if known and known.attn_out in ATTENTION else None) or "attn"
    return [
        ("blocks.{}.hook_out", "layers.{}:out"),
        ("blocks.{}.hook_in", "layers.{}:in"),
        *((f"blocks.{{}}.mlp.hook_{side}", f"layers.{{}}.{mlp}:{side}") for side in ("in", "out")),
        ("blocks.{}.attn.hook_out", f"layers.{{}}.{attn}:out"),
    ]
