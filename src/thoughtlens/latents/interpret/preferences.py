"""Every preference of one SAE's latents in one go: what `latents.codes.association` tests, for a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from jaxtyping import Int

from thoughtlens.core import column_table
from thoughtlens.latents.codes.association import (
    Associations,
    correlation,
    label_preference,
    level_preference,
    token_preference,
    word_preference,
)
from thoughtlens.latents.codes.chance import Chance
from thoughtlens.latents.codes.coded import Coded
from thoughtlens.latents.codes.labels import Label, encode_numbers, number_columns, read_labels
from thoughtlens.latents.interpret.config import InterpretConfig
from thoughtlens.latents.interpret.records import AssociationRow, Tested

WORD = r"\d+(?:[.,]\d+)*|\w+|[^\w\s]"
"""Words, numbers as they are written, and signs."""
TOKEN_UNITS = 3
"""Documents, or groups of copies, in which a latent must fire on a token for the pair to be tested."""


@dataclass(frozen=True, eq=False)
class Factor:
    """What latents may prefer a level of, and what was found."""

    name: str
    statistic: str
    levels: list[str] | dict[int, str]
    """Names of the levels."""
    found: Associations

    def table(self, member: str) -> pa.Table:
        """A row for each association."""
        found = self.found
        columns = {
            "member": member, "factor": self.name, "statistic": self.statistic,
            "level": [self.levels[i] for i in found.level.tolist()],
            "rate_in": pa.array(found.rate_in, from_pandas=True),
            "rate_out": pa.array(found.rate_out, from_pandas=True),
            "n_problems": found.n_units,
            "direction": np.where(found.estimate > (1 if self.statistic == "lift" else 0), "more", "less"),
        }  # fmt: skip
        same = ("latent", "estimate", "low", "high", "n_fires", "z", "q_value", "p_max")
        return column_table(AssociationRow, columns | {name: getattr(found, name) for name in same})

    def tested(self, n_problems: int) -> Tested:
        """How much was tested, and how much of it holds."""
        return Tested(
            factor=self.name,
            n=n_problems,
            n_tested=self.found.n_tested,
            n_latents=len(np.unique(self.found.latent)),
            n_q_below=int((self.found.q_value < 0.05).sum()),
            n_p_max_below=int((self.found.p_max < 0.05).sum()),
        )


def factors(coded: Coded, cfg: InterpretConfig) -> Iterator[Factor]:
    """All factors of a store: what varies inside problems, labels, numbers, words and tokens."""
    fires, units, problems = coded.fires, coded.rows.problem, coded.problems
    group = coded.group if len(np.unique(coded.group)) < len(coded.group) else None
    chance = Chance(n_permutations=cfg.n_permutations, seed=cfg.seed, min_units=cfg.min_units, group=group)
    rarer = replace(chance, n_permutations=cfg.text_permutations)
    for name, (level, names) in coded.inside().items():
        found = level_preference(fires, level, len(names), chance, of_hooks=name == "hook")
        yield Factor(name, "rate difference", names, found)
    for label in labels_of(problems, cfg):
        if label.levels:
            found = label_preference(fires, label.codes[units], len(label.levels), chance)
            yield Factor(f"label:{label.name}", "rate difference", label.levels, found)
    for name in number_columns(problems, cfg.labels, cfg.max_levels):
        found = correlation(fires, encode_numbers(problems[name])[units], chance)
        yield Factor(f"number:{name}", "correlation", ["rank", "value"], found)
    indptr, word, names = words_of(_texts(problems, units), cfg.min_units, cfg.max_words)
    if names:
        found = word_preference(fires, indptr, word, len(names), rarer, top=cfg.top_tokens)
        yield Factor("cot", "rate difference", names, found)
    if coded.text:
        token = coded.rows.columns.token_id
        found = token_preference(
            fires, token, int(token.max(initial=0)) + 1, replace(rarer, min_units=TOKEN_UNITS),
            min_fires=cfg.min_token_fires, top=cfg.top_tokens,
        )  # fmt: skip
        yield Factor("token", "lift", coded.token_names(np.unique(found.level).tolist()), found)


def labels_of(problems: pa.Table, cfg: InterpretConfig) -> list[Label]:
    """The label columns as classes that are frequent enough to be tested."""
    return read_labels(problems, cfg.labels, max_levels=cfg.max_levels, min_count=cfg.min_units)


@lru_cache(maxsize=1)
def words_of(
    texts: tuple[str, ...], min_texts: int, max_words: int
) -> tuple[Int[np.ndarray, " texts_plus_1"], Int[np.ndarray, " n"], list[str]]:
    """The different words of every text: where each text's begin, the words by number, and their names.

    Only words that `min_texts` texts have and `min_texts` have not, of these the `max_words` most frequent;
    letters are lower-cased. All members of a store share them.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # here: it takes a second to load

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


def _texts(problems: pa.Table, lines: np.ndarray) -> tuple[str, ...]:
    """The reasoning text of each of these problems; empty where there is none."""
    if "cot" not in problems.column_names:
        return ("",) * len(lines)
    return tuple(text or "" for text in problems["cot"].take(pa.array(lines)).to_pylist())
