"""Every preference of one SAE's latents in one go: what `latents.stats.association` tests, for a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer

from thoughtlens.acts.store.tables import PROBLEM_KEYS
from thoughtlens.core import ConfigError
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.stats.association import (
    Associations,
    correlation,
    label_preference,
    level_preference,
    token_preference,
    word_preference,
)
from thoughtlens.latents.stats.chance import Chance

PROBLEM_COLUMNS = {*PROBLEM_KEYS, "question", "text", "answer", "cot"}
WORD = r"\d+(?:[.,]\d+)*|\w+|[^\w\s]"
"""Words, numbers as they are written, and signs."""
TOKEN_UNITS = 3
"""Documents in which a latent must fire on a token for the pair to be tested."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is tested and listed; fields as in `InterpretConfig`."""

    labels: tuple[str, ...] | None
    max_levels: int
    min_units: int
    min_token_fires: int
    top_tokens: int
    max_words: int
    n_permutations: int
    text_permutations: int
    seed: int


def preferences(coded: Coded, cfg: Settings) -> tuple[pa.Table, list[dict[str, Any]]]:
    """All preferences as one table, and per factor how many were tested and hold."""
    tables, tested = [], []
    for factor, statistic, names, found in _factors(coded, cfg):
        tested.append(_tested(factor, found, coded.fires.n_units))
        tables.append(_association_table(coded.name, factor, statistic, names, found))
    return pa.concat_tables(tables), tested


def _factors(
    coded: Coded, cfg: Settings
) -> Iterator[tuple[str, str, list[str] | dict[int, str], Associations]]:
    """Factor, statistic, names of the levels and what was found, one factor after the other."""
    fires, units, problems = coded.fires, coded.rows.problem, coded.problems
    chance = Chance(n_permutations=cfg.n_permutations, seed=cfg.seed, min_units=cfg.min_units)
    for name, (level, names) in coded.inside().items():
        found = level_preference(fires, level, len(names), chance, of_hooks=name == "hook")
        yield name, "rate difference", names, found
    for name in label_columns(problems, cfg.labels, cfg.max_levels):
        codes, names = encode_labels(problems[name])
        found = label_preference(fires, codes[units], len(names), chance)
        yield f"label:{name}", "rate difference", names, found
    for name in number_columns(problems, cfg.labels, cfg.max_levels):
        found = correlation(fires, encode_numbers(problems[name])[units], chance)
        yield f"number:{name}", "correlation", ["rank"], found
    rarer = Chance(n_permutations=cfg.text_permutations, seed=cfg.seed, min_units=cfg.min_units)
    texts = _texts(problems, units)
    indptr, word, names = words_of(texts, cfg.min_units, cfg.max_words)
    if names:
        found = word_preference(fires, indptr, word, len(names), rarer, top=cfg.top_tokens)
        yield "cot", "rate difference", names, found
    if coded.text:
        token = coded.rows.columns["token_id"]
        rarer = Chance(n_permutations=cfg.text_permutations, seed=cfg.seed, min_units=TOKEN_UNITS)
        found = token_preference(
            fires, token, int(token.max(initial=0)) + 1, rarer, min_fires=cfg.min_token_fires,
            top=cfg.top_tokens,
        )  # fmt: skip
        yield "token", "lift", coded.token_names(np.unique(found.level).tolist()), found


def words_of(
    texts: list[str], min_texts: int, max_words: int
) -> tuple[Int[np.ndarray, " texts_plus_1"], Int[np.ndarray, " n"], list[str]]:
    """The different words of every text: where each text's begin, the words by number, and their names.

    Only words that `min_texts` texts have and `min_texts` have not, of these the `max_words` most frequent;
    letters are lower-cased.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=WORD)
    tokenize = vectorizer.build_analyzer()
    if not max_words or len(texts) < 2 * min_texts or not any(tokenize(text) for text in texts):
        return np.zeros(len(texts) + 1, np.int64), np.zeros(0, np.int32), []
    counts = sp.csc_array(vectorizer.fit_transform(texts))
    n = np.diff(counts.indptr)
    good = np.flatnonzero((n >= min_texts) & (n <= len(texts) - min_texts))
    kept = np.sort(good[np.lexsort((good, -n[good]))][:max_words])
    chosen = counts[:, kept].tocsr()
    names = vectorizer.get_feature_names_out()[kept].tolist()
    return chosen.indptr.astype(np.int64), chosen.indices.astype(np.int32), names


def number_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Columns of numbers with more than `max_levels` different values, of those named or of all labels."""
    found = []
    for name in _own_columns(problems, names):
        kind = problems.schema.field(name).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values = encode_numbers(problems[name])
            if len(np.unique(values[~np.isnan(values)])) > max_levels:
                found.append(name)
    return found


def encode_numbers(column: pa.ChunkedArray) -> Float[np.ndarray, " n"]:
    """Numbers as float64; NaN where missing."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def label_columns(problems: pa.Table, names: tuple[str, ...] | None, max_levels: int) -> list[str]:
    """Label columns to test: those named, or all with 2 to `max_levels` different values."""
    own = _own_columns(problems, names)
    flat = [name for name in own if not pa.types.is_nested(problems.schema.field(name).type)]
    counts = {name: len(problems[name].drop_null().unique()) for name in flat}
    return [name for name, n in counts.items() if 2 <= n <= max_levels]


def encode_labels(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a label column (-1: missing) and its values as text, sorted."""
    values = sorted(column.drop_null().unique().to_pylist())
    code = {value: i for i, value in enumerate(values)}
    codes = np.array([code.get(value, -1) for value in column.to_pylist()], np.int64)
    return codes, [str(v) for v in values]


def _own_columns(problems: pa.Table, names: tuple[str, ...] | None) -> list[str]:
    own = [name for name in problems.column_names if name not in PROBLEM_COLUMNS]
    for name in names or ():
        if name not in own:
            raise ConfigError(f"labels: expected some of {', '.join(own) or 'no labels'}, got {name!r}")
    return list(own if names is None else names)


def _texts(problems: pa.Table, lines: np.ndarray) -> list[str]:
    """The reasoning text of each of these problems; empty where there is none."""
    if "cot" not in problems.column_names:
        return [""] * len(lines)
    return [text or "" for text in problems["cot"].take(pa.array(lines)).to_pylist()]


def _association_table(
    name: str,
    factor: str,
    statistic: str,
    levels: list[str] | dict[int, str],
    found: Associations,
) -> pa.Table:
    n = len(found)
    return pa.table(
        {
            "member": pa.array([name] * n, pa.string()),
            "latent": found.latent.astype(np.int32),
            "factor": pa.array([factor] * n, pa.string()),
            "level": pa.array([levels[i] for i in found.level.tolist()], pa.string()),
            "statistic": pa.array([statistic] * n, pa.string()),
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "rate_in": pa.array(found.rate_in, from_pandas=True),
            "rate_out": pa.array(found.rate_out, from_pandas=True),
            "n_fires": found.n_fires,
            "n_problems": found.n_units,
            "z": found.z,
            "q_value": found.q_value,
            "p_max": found.p_max,
        }
    )


def _tested(factor: str, found: Associations, n_problems: int) -> dict[str, Any]:
    return {
        "factor": factor,
        "n": n_problems,
        "n_tested": found.n_tested,
        "n_latents": len(np.unique(found.latent)),
        "n_q_below_0.05": int((found.q_value < 0.05).sum()),
        "n_p_max_below_0.05": int((found.p_max < 0.05).sum()),
    }
