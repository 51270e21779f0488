"""What a checkpoint holds, whether it opens, and what a careless loader would have made of it.

The facts are those that the loader itself comes to know (`heard`); nothing is read a second time, and the
model does not run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thoughtlens.core import Record, ThoughtlensError
from thoughtlens.models.thought import foreign, tiny
from thoughtlens.models.thought.config import ThoughtModelConfig
from thoughtlens.models.thought.heard import Heard, listening
from thoughtlens.models.thought.stated import stated
from thoughtlens.models.thought.thoughts import ThoughtModel, load

BASES = {
    (768, 12): "openai-community/gpt2",
    (1024, 24): "openai-community/gpt2-medium",
    (1280, 36): "openai-community/gpt2-large",
    (2048, 16): "meta-llama/Llama-3.2-1B-Instruct",
    (3072, 28): "meta-llama/Llama-3.2-3B-Instruct",
    (4096, 32): "meta-llama/Llama-3.1-8B-Instruct",
}
"""Width and blocks -> the base model that published checkpoints of this size have."""
PROJECTIONS = ("prj.", "projector.", "lt_head.")
EMBEDDINGS = ("wte.weight", "embed_tokens.weight")
HARMLESS = "none that is known: transformers reads every tensor, and says words without thinking"
SWITCHES = ("eos_before", "eos_after")


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """An embedding row that is no word of the base model's."""

    id: int
    token: str | None
    """As the tokenizer writes it."""
    use: str
    who: str
    """Who says so."""


@dataclass(frozen=True, kw_only=True)
class Setting(Record):
    """A setting of the thinking, and who says it."""

    name: str
    value: bool | int | float | str | None
    who: str


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    """Tensors of a file under one name."""

    name: str
    tensors: int
    used: bool | None
    """None: the loader stopped before."""


@dataclass(frozen=True, kw_only=True)
class Opening(Record):
    """A checkpoint as its loader sees it."""

    name: str
    opens: bool
    error: str | None
    """Why it does not open."""
    layout: str | None
    family: str | None
    files: list[str]
    bytes: int
    digest: str | None
    revision: str | None
    base: str | None
    rows: int | None
    """Of the embedding."""
    words: int | None
    """Rows before the first that is no word's."""
    added: list[Row]
    special: dict[str, int]
    """End of sequence, padding and begin of sequence by the tokenizer in use."""
    parts: list[Part]
    missing: list[str]
    """Tensors that the model needs and the file does not have."""
    settings: list[Setting]
    stop_heads: list[str]
    careless: list[str]
    """What a loader that is less strict would have done with this file."""
    advice: list[str] = field(default_factory=list)
    """What to pass, or to do."""

    def text(self) -> str:
        """A screen for people."""
        size = f"{self.bytes / 1e6:,.1f} MB"
        lines = [f"{self.name}: {'opens' if self.opens else 'does not open'}"]
        lines += [_line("layout", self.layout or "not recognised")]
        lines += [_line("weights", f"{', '.join(map(_file, self.files))}; {size}")] if self.files else []
        lines += [_line("sha256", self.digest)] if self.digest else []
        lines += [_line("revision", self.revision)] if self.revision else []
        lines += [_line("base", self.base)] if self.base else []
        if self.rows is not None:
            lines += [_line("rows", f"{self.rows} of the embedding, {self.words} of them words")]
        lines += [_line("", f"{r.id} {r.token or 'no token'}: {r.use} ({r.who})") for r in self.added]
        said = ", ".join(f"{use} {i}" for use, i in self.special.items())
        lines += [_line("tokens", said)] if said else []
        for part in self.parts:
            used = {True: "used", False: "not used", None: "not judged"}[part.used]
            lines += [_line("keys", f"{part.name}: {part.tensors} tensors, {used}")]
        lines += [_line("missing", name) for name in self.missing[:4]]
        lines += [_line("", f"and {len(self.missing) - 4} more")] if len(self.missing) > 4 else []
        lines += [_line("setting", f"{s.name} = {s.value} ({s.who})") for s in self.settings]
        lines += [_line("stop head", f"{name}, which is not used") for name in self.stop_heads]
        lines += [_line("careless", one) for one in self.careless]
        lines += [_line("pass", one) for one in self.advice]
        return "\n".join([*lines, _line("why not", self.error)] if self.error else lines)


def opening(name: str | Path, *, family: str | None = None, **options: Any) -> Opening:
    """Open a checkpoint and say what it holds; one that does not open is described as far as it was read.

    Args:
        name: As of `models.thought.thoughts.load`.
        family: Likewise.
        options: Likewise.

    Example:
        ```python
        print(tl.models.opening("path/to/checkpoint", base="gpt2").text())
        ```
    """
    options |= foreign.parsed(options.pop("options", ()))
    family, model, error = family or options.pop("family", None), None, None
    with listening() as heard:
        try:
            model = load(name, family=family, **options)
        except ThoughtlensError as refused:
            error = str(refused)
        if not heard.settings and heard.files:
            _tell_stated(heard)
    given = {**({"family": family} if family else {}), **options}
    return _described(str(name), heard, model, error, given)


def is_checkpoint(name: str, options: Sequence[str] = ()) -> bool:
    """Whether a name may be that of weights on disk or on the hub, and not code or a shipped model."""
    families = [option.removeprefix("family=") for option in options if option.startswith("family=")]
    return not (tiny.knows(name) or any(foreign.is_code(one) for one in (name, *families)))


def _tell_stated(heard: Heard) -> None:
    """Settings beside a checkpoint that its loader did not get to."""
    try:
        own = stated(heard.files[0].parent)
    except ThoughtlensError:
        return
    heard.settings = {key: (value, own.files[key]) for key, value in own.values.items()}


def _described(
    name: str, heard: Heard, model: ThoughtModel | None, error: str | None, given: dict[str, Any]
) -> Opening:
    tokenizer = heard.tokenizer
    special = {
        what: getattr(tokenizer, f"{short}_token_id")
        for what, short in (("end of sequence", "eos"), ("padding", "pad"), ("begin of sequence", "bos"))
        if isinstance(getattr(tokenizer, f"{short}_token_id", None), int)
    }
    return Opening(
        name=name,
        opens=model is not None,
        error=error,
        layout=heard.layout,
        family=str(model.settings["family"]) if model else None,
        files=[str(file) for file in heard.files],
        bytes=sum(file.stat().st_size for file in heard.files if file.is_file()),
        digest=heard.digest,
        revision=heard.revision,
        base=heard.base,
        rows=heard.rows,
        words=_words(heard),
        added=list(_added(heard)),
        special=special,
        parts=_parts(heard, model is not None),
        missing=_missing(heard),
        settings=[
            Setting(name=key, value=value, who=who or "nobody says it: assumed")
            for key, (value, who) in heard.settings.items()
        ],
        stop_heads=sorted({key.partition(".")[0] for key in heard.stop_heads}),
        careless=list(_careless(heard)) or ([HARMLESS] if model else []),
        advice=list(_advice(name, heard, error, given)),
    )


def _words(heard: Heard) -> int | None:
    """Rows before the first that is no word's: the base model's, or those before the thought tokens."""
    own = heard.config and heard.config.vocab_size
    if own is None or heard.rows is None or own < heard.rows:
        return own
    return min((i for i, _ in heard.tokens.values()), default=own)


def _added(heard: Heard) -> Iterator[Row]:
    """Rows behind the words, and thought tokens among them: what each is for, and who says so."""
    words = _words(heard)
    if heard.rows is None or words is None or heard.tokenizer is None:
        return
    uses = {i: (use, who) for use, (i, who) in heard.tokens.items()}
    names = {i: token.content for i, token in heard.tokenizer.added_tokens_decoder.items()}
    nobodys = []
    for i in sorted({*range(words, heard.rows), *uses}):
        if i in uses or i in names:
            use, who = uses.get(i, ("a token of the tokenizer", "the tokenizer"))
            yield Row(id=i, token=names.get(i), use=use, who=who)
        else:
            nobodys.append(i)
    if nobodys:
        more = f", and {len(nobodys) - 1} more up to {nobodys[-1]}" if len(nobodys) > 1 else ""
        yield Row(
            id=nobodys[0], token=None, use=f"padding, or a token that is never read{more}", who="nobody"
        )


def _parts(heard: Heard, opened: bool) -> list[Part]:
    """The file's tensors by the first part of their names; LoRA by itself."""
    groups: dict[str, list[str]] = {}
    for key in heard.shapes:
        first = key.partition(".")[0] + (".*.lora_*" if ".lora_" in key else ".*" if "." in key else "")
        groups.setdefault(first, []).append(key)
    unused = {*heard.unused, *heard.stop_heads}
    return [
        Part(name=name, tensors=len(keys), used=False if keys[0] in unused else True if opened else None)
        for name, keys in groups.items()
    ]


def _missing(heard: Heard) -> list[str]:
    """What the model needs and the file does not have; a head that is the embedding may be left out."""
    there = {key.removeprefix(heard.prefix).replace(".base_layer.", ".") for key in heard.shapes}
    return sorted({*(_needed(heard) - there), *(set(heard.head) - heard.shapes.keys())})


def _needed(heard: Heard) -> set[str]:
    tied = getattr(heard.config, "tie_word_embeddings", False)
    return set(heard.wanted) - ({"lm_head.weight"} if tied else set())


def _careless(heard: Heard) -> Iterator[str]:
    """What less strict loaders do with a file like this, counted on this file."""
    keys, needed = set(heard.shapes), _needed(heard)
    if lost := needed - keys:
        dropped = f"{len(keys - set(heard.wanted))} of {len(keys)} tensors dropped"
        yield (
            f"load_state_dict(strict=False) into the base model: {dropped}, {len(lost)} of {len(needed)} "
            f"weights left random, without an error"
        )
    if heard.tokens and heard.rows and heard.config and heard.config.vocab_size < heard.rows:
        ids = ", ".join(str(i) for i, _ in heard.tokens.values())
        yield (
            f"the base model's {heard.config.vocab_size} embedding rows kept: those of the thought tokens "
            f"({ids}) dropped"
        )
    if projection := sorted(key for key in keys if key.startswith(PROJECTIONS)):
        yield (
            f"AutoModelForCausalLM, or strict=False: what makes the next thought ({projection[0]} ..., "
            f"{len(projection)} tensors) dropped or left random, and with it every thought after the first"
        )
    if lora := [key for key in keys if ".lora_A." in key]:
        factor = (
            f"; with alpha ignored, added once instead of {heard.scaling:g} times" if heard.scaling else ""
        )
        yield f"without PEFT: {len(lora)} adapters dropped, and the model is its base model{factor}"
    if heard.differing_head:
        yield "tie_weights(): the stored head, which is not the embedding, replaced by it"
    if switches := [f"{key} = {heard.settings[key][0]}" for key in SWITCHES if key in heard.settings]:
        yield f"other switches than {', '.join(switches)}: other thoughts or answers, without an error"


def _advice(name: str, heard: Heard, error: str | None, given: dict[str, Any]) -> Iterator[str]:
    """What to pass on the command line."""
    assumed = {key: value for key, (value, who) in heard.settings.items() if not who}
    if error is None:
        if assumed:
            yield f"what its training had, where nobody says it ({', '.join(assumed)}); as assumed, this is"
        yield _command(name, given | assumed)
    elif heard.files and heard.base is None and "base" in error and (base := _likely_base(heard)):
        yield f"by its width and blocks its base model is {base}, which is passed as"
        yield _command(name, {"base": base, **given})


def _command(name: str, given: dict[str, Any]) -> str:
    words = {key: shlex.quote(str(v).lower() if isinstance(v, bool) else str(v)) for key, v in given.items()}
    plain = [f"{key}={word}" for key, word in words.items() if key in ThoughtModelConfig.model_fields]
    further = [f"{key}={word}" for key, word in words.items() if key not in ThoughtModelConfig.model_fields]
    plain += [f"options={','.join(further)}"] if further else []
    said = " ".join([shlex.quote(name), *plain, "problems=gsm8k:test"])
    return f"thoughtlens gates {said} --out runs/gates"


def _likely_base(heard: Heard) -> str | None:
    """The published base model of this width and number of blocks."""
    width = next((s[-1] for key, s in heard.shapes.items() if key.endswith(EMBEDDINGS)), None)
    blocks = {
        part
        for key in heard.shapes
        for before, part in zip(key.split("."), key.split(".")[1:], strict=False)
        if before in ("h", "layers") and part.isdigit()
    }
    return BASES.get((width, len(blocks))) if width else None


def _line(head: str, text: str) -> str:
    return f"{head:<10}{text}"


def _file(file: str) -> str:
    return Path(file).name
