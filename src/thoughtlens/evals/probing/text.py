"""What the words alone say: bag-of-words features of the texts behind the activations."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

from thoughtlens.core import DataError


def bag_of_words(texts: Sequence[str], *, min_texts: int = 2, max_features: int = 20_000) -> sp.csr_array:
    """TF-IDF of words and pairs of words, numbers kept as they are written.

    The vocabulary and its document frequencies come from all texts given and never from labels.
    Rows have unit length; a text of unseen or no words is a row of zeros.

    Args:
        texts: One text per unit.
        min_texts: A word counts only if it is in this many texts.
        max_features: The most frequent ones are kept.

    Raises:
        DataError: no word is in `min_texts` texts.
    """
    vectorizer = TfidfVectorizer(
        token_pattern=r"\d+(?:[.,]\d+)*|\w+|[^\w\s]", ngram_range=(1, 2), min_df=min(min_texts, len(texts)),
        max_features=max_features, sublinear_tf=True,
    )  # fmt: skip
    try:
        return sp.csr_array(vectorizer.fit_transform(texts))
    except ValueError:
        raise DataError(
            f"Expected texts that share words, got {len(texts)} texts without a word in {min_texts} of them; "
            f"drop the text arm, or check the text column"
        ) from None


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
SENTENCE = re.compile(r"[.?!](?:\s|$)")
COUNTS = ("words", "characters", "sentences", "numbers", "largest_number", "mean_number", "steps")


def text_counts(
    texts: Sequence[str], n_steps: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n counts"]:
    """What a text says without its words, in the order of `COUNTS`: lengths, how many numbers and how
    large (ln(1 + value)), and the problem's number of steps where it is known (else 0 for all)."""
    found = np.zeros((len(texts), len(COUNTS)))
    for i, text in enumerate(texts):
        numbers = [float(n.replace(",", "")) for n in NUMBER.findall(text)]
        found[i, :4] = len(text.split()), len(text), len(SENTENCE.findall(text)), len(numbers)
        if numbers:
            found[i, 4:6] = np.log1p(max(numbers)), np.log1p(numbers).mean()
    if n_steps is not None:
        found[:, 6] = n_steps
    return found
