"""Whether what a model says is the answer, where that is no number: a letter, true or false, a text."""

from __future__ import annotations

import re

TRUTHS = {"true": "True", "yes": "True", "false": "False", "no": "False"}
"""Words for true and false."""
MARK = re.compile(r"answer\s+is\s*:?|#{2,}", re.I)
LETTER = re.compile(r"\(?([A-Z])\s*(?:[):.,]|$)")
IN_BRACKETS = re.compile(r"\(([A-Z])\)")
TRUTH = re.compile(r"\b(true|false)\b", re.I)
AT_ONCE = re.compile(r"\W*(true|false|yes|no)\b", re.I)


def told(text: str) -> str:
    """What stands behind the last "answer is" or "###", or all of it; without a point at the end."""
    return MARK.split(text)[-1].strip().rstrip(".").strip()


def same_answer(text: str, right: str) -> bool:
    """Whether a text says the right answer.

    Of multiple choice the letter counts, before whatever follows it ("B: ignore"), else the last one in
    brackets; of true and false, or yes and no, the word at the beginning, else the last true or false. Other
    answers must be the same text.
    """
    said, right = told(text), right.strip().rstrip(".")
    if said == right:
        return True
    if re.fullmatch("[A-Z]", right):
        letters = [m[1] for m in (LETTER.match(said),) if m] or IN_BRACKETS.findall(said)[-1:]
        return letters == [right]
    if right.lower() in TRUTHS:
        words = [m[1] for m in (AT_ONCE.match(said),) if m] or TRUTH.findall(said)[-1:]
        return [TRUTHS[word.lower()] for word in words] == [TRUTHS[right.lower()]]
    return False
