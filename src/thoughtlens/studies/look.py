"""Somebody's SAE, from its files to the explorer: a recipe is made of what it says of itself, and run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from thoughtlens.acts import ExtractConfig
from thoughtlens.core import (
    BY_NAME,
    DTYPES,
    ConfigError,
    DataError,
    Json,
    MismatchError,
    Result,
    load_config,
    say,
    warn,
)
from thoughtlens.latents import load_tokenizer
from thoughtlens.models import ModelConfig, context_length, read_config, widths
from thoughtlens.problems import TextConfig, iter_documents
from thoughtlens.sae import Card, card, hub_model
from thoughtlens.studies import pipeline

STAGES = ("extract", "validate", "interpret", "lens", "explain", "explorer", "report")
TOKENS = 50_000
USUAL: dict[str, Json] = {
    "problems": {"validation": 0.1, "test": 0.2},
    "validate": {"ce_tokens": 2048, "force": True},
    "explain": {"n_latents": 32},
}
"""Of a first look, changed by overrides; numbers that mean little are marked, and no reason to stop."""
USUAL_CONTEXT = 256
LOOKED_INTO = 1000
"""Documents that are read before anything is written."""
BOS = {True: "always", False: "never", None: "tokenizer"}
WITH = {True: "with", False: "without"}


class Ask(NamedTuple):
    """What to look at, and with what."""

    source: str
    """A path, a hub id, or `release/id`."""
    model: str | None = None
    """None: the one that the SAE says it was trained on."""
    text: Path | None = None
    """None: the text that comes along."""
    n_tokens: int = TOKENS
    source_format: str | None = None
    hook_name: str | None = None
    force: bool = False
    """Go on where model or settings are not the SAE's."""
    overrides: Sequence[str] = ()

    @property
    def place(self) -> Path:
        """A directory for the run, where none is named."""
        words = [part for part in re.split(r"[^\w.-]+", self.source) if part.strip(".")]
        return Path("runs") / f"look-{'-'.join(words[-3:])}"


def look(ask: Ask, out: str | Path, *, jobs: int | None = 1) -> Result:
    """Read an SAE of any format, extract what it reads, judge it, explain it, and write the pages.

    What is done in `out` is not done again. `jobs`: as of `pipeline.run`.

    Raises:
        NotThereError: no SAE, or no model, of that name.
        ConfigError: two formats in one place, no model named, or a setting that there is not.
        MismatchError: a model, width, site, begin-of-sequence token or context that is not the SAE's, before
            anything is extracted.
        DataError: a text that cannot be read, or too short to hold some of it out.
        OccupiedError: `out` holds something else.
    """
    found = card(ask.source, source_format=ask.source_format, hook_name=ask.hook_name)
    cfg = pipeline.load(recipe(found, ask), ask.overrides)
    extract = pipeline.stage_config(cfg, "extract", Path(out))
    assert isinstance(extract, ExtractConfig)
    wrong = [*_of_model(found, extract), *_of_settings(found, extract)]
    if wrong and not ask.force:
        raise MismatchError(f"{ask.source}: {'; '.join(wrong)}. --force goes on all the same")
    for line in wrong:
        warn(line)
    _require_widths(found, extract.model)
    _require_text(extract, cfg.stages)
    as_ours = {"to": "thoughtlens", "source_format": found.format, "hook_name": ask.hook_name}
    table = as_ours | {"source": found.path, "release": found.release}
    convert = BY_NAME["convert"]
    convert.run(load_config(convert.config, table), Path(out) / BY_NAME["train"].directory)
    return pipeline.run(cfg, out, jobs=jobs)


def recipe(found: Card, ask: Ask) -> Json:
    """The table of the run: the SAE's own site, context and begin-of-sequence token.

    Raises:
        ConfigError: nobody says which model it is of.
    """
    name = ask.model or (hub_model(found.says.model) if found.says.model else None)
    if name is None:
        raise ConfigError(f"{ask.source} does not say which model it was trained on; say it with --model")
    room = context_length(read_config(name))
    said = found.says.processing
    dtype = next((one for key in ("dtype", "torch_dtype") if (one := str(said.get(key))) in DTYPES), None)
    source = {} if ask.text is None else {"source": str(ask.text)}
    own: dict[str, Json] = {
        "model": {"name": name} | ({"dtype": dtype} if dtype else {}),
        "problems": {"kind": "text"} | source,
        "extract": {
            "hook_names": found.hook_names,
            "bos": BOS[found.says.prepend_bos],
            "context_length": min(found.says.context_size or USUAL_CONTEXT, room),
            "max_tokens": ask.n_tokens,
            "max_windows": 2 if ask.text is None else None,
        },
    }
    tables = {key: USUAL.get(key, {}) | own.get(key, {}) for key in {**USUAL, **own}}
    return {"name": f"look at {ask.source}", "stages": list(STAGES), **tables}


def _of_model(found: Card, extract: ExtractConfig) -> list[str]:
    """How the model is not the SAE's."""
    model = extract.model.name
    if found.is_of(model):
        return []
    return [f"it was trained on {found.says.model}, and the model is {model}"]


def _of_settings(found: Card, extract: ExtractConfig) -> list[str]:
    """How the extraction is not what the SAE was trained on."""
    own, names, wrong = found.says, extract.hook_names or (), []
    if missing := [hook for hook in found.hook_names if hook not in names]:
        wrong.append(f"it reads {', '.join(missing)}, and extract.hook_names is {', '.join(names)}")
    if own.prepend_bos is not None:
        first = load_tokenizer(extract.model.name, extract.model.revision).bos_token_id
        if own.prepend_bos and first is None:
            wrong.append(
                f"it was trained with a begin-of-sequence token, and the tokenizer of "
                f"{extract.model.name} has none (extract.bos=never)"
            )
        elif extract.bos != BOS[own.prepend_bos]:
            wrong.append(
                f"it was trained {WITH[own.prepend_bos]} a begin-of-sequence token, and extract.bos is "
                f"{extract.bos}"
            )
    if own.context_size and extract.context_length > own.context_size:
        wrong.append(
            f"it was trained on windows of {own.context_size} tokens, and extract.context_length is "
            f"{extract.context_length}"
        )
    return wrong


def _require_text(extract: ExtractConfig, stages: Sequence[str]) -> None:
    """See that the text can be read, and that something of what is read is left to judge on."""
    cfg = extract.problems
    if not isinstance(cfg, TextConfig):
        return
    tokenizer = load_tokenizer(extract.model.name, extract.model.revision)
    seeded = cfg.model_copy(update={"seed": extract.seed if cfg.seed is None else cfg.seed})
    rows = list(itertools.islice(iter_documents(seeded, tokenizer), LOOKED_INTO))
    if any("\0" in row["question"] for row in rows):
        raise DataError(f"{cfg.source} is no text: there are zero bytes in it")
    if {"validate", "lens"}.isdisjoint(stages):
        return
    splits, most = set[str](), extract.context_length * (extract.max_windows or 2**31)
    left = extract.max_tokens or 2**31
    for n, row in enumerate(rows, 1):
        splits.add(row["split"])
        left -= min(len(tokenizer.encode(row["question"], add_special_tokens=False)), most)
        if {"train", "test"} <= splits:
            return
        if left <= 0:
            raise DataError(
                f"{extract.max_tokens} tokens are {n} document(s) of {cfg.source}, of which none falls into "
                f"the split {_lacking(splits)}: give more of them (--tokens)"
            )
    raise DataError(
        f"{cfg.source}: {len(rows)} document(s), of which none falls into the split {_lacking(splits)}: give "
        f"more of them (in a .txt, an empty line parts two)"
    )


def _lacking(splits: set[str]) -> str:
    return " or ".join(one for one in ("train", "test") if one not in splits)


def _require_widths(found: Card, model: ModelConfig) -> None:
    """See that the model has the SAE's modules, as wide as it takes them."""
    there = widths(model.name, found.hook_names, revision=model.revision)
    for hook, width in zip(found.hook_names, (found.d_in, found.d_out), strict=False):
        if there[hook] not in (None, width):
            raise MismatchError(
                f"{found.path} takes vectors of width {width} at {hook}, and {model.name} has {there[hook]} "
                f"there: it is of another model"
            )
    where = f"{', '.join(found.hook_names)} of {model.name}"
    say(f"{found.format}, {found.rule}, {found.d_sae:,} latents at {where}")
