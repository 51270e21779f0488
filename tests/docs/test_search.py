"""What people look for in their own words is among the first three hits of the documentation's search.

The words are those of two published studies: their next steps and their wishes.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.docs.repository import ROOT
from tests.docs.test_site import pytestmark, site

__all__ = ["pytestmark", "site"]

K1, B = 1.2, 0.75
"""Of BM25, as in lunr, which the site's search is made with."""
ASKED = {
    "reduce dictionary size": "dead_features",
    "tune L1 coefficient": "dead_features",
    "resurrect dead features": "dead_features",
    "reinitialize dead features during training": "dead_features",
    "feature resurrection": "dead_features",
    "feature death problem": "dead_features",
    "token-specific aggregation": "tokens_and_layers",
    "separate SAE for each token position": "tokens_and_layers",
    "per-layer SAE": "tokens_and_layers",
    "attention aggregation": "tokens_and_layers",
    "weight tokens by importance": "tokens_and_layers",
    "supervised features": "probes",
    "PCA baseline": "probes",
    "probing classifiers": "probes",
    "probe on raw activations": "probes",
    "feature visualization": "see_features",
    "what activates each feature": "see_features",
    "what each feature responds to": "see_features",
    "visualization of feature activations": "see_features",
    "do features transfer to other models": "see_features",
    "more training data": "more_data",
    "more diverse texts": "more_data",
    "thousands of texts": "more_data",
}


class Search:
    """The search of the site: BM25 of words that begin as asked, titles first, pages by best section."""

    def __init__(self, index: Path) -> None:
        table = json.loads(index.read_text("utf-8"))
        self.docs, config = table["docs"], table["config"]
        self.separator, self.boosts = config["separator"], {"title": 1000.0, "text": 1.0}
        self.fields = {field: [Counter(self.words(doc[field])) for doc in self.docs] for field in self.boosts}
        self.holding: dict[str, set[int]] = defaultdict(set)
        for counts in self.fields.values():
            for i, words in enumerate(counts):
                for word in words:
                    self.holding[word].add(i)

    def words(self, text: str) -> list[str]:
        plain = html.unescape(re.sub(r"<[^>]+>", " ", text)).lower()
        return [word for word in re.split(self.separator, plain) if word]

    def pages(self, query: str) -> list[str]:
        """Pages, the best first."""
        asked = self.words(query)
        found = {one: [word for word in self.holding if word.startswith(one)] for one in asked}
        times = Counter(word for words in found.values() for word in words)
        length = math.sqrt(sum(n * n for n in times.values())) or 1.0
        scores: Counter[int] = Counter()
        for field, counts in self.fields.items():
            mean = sum(c.total() for c in counts) / len(counts)
            for word, n in times.items():
                rare = len(self.docs) - len(self.holding[word]) + 0.5
                weight = n * math.log(1 + abs(rare / (len(self.holding[word]) + 0.5))) / length
                for i in self.holding[word]:
                    tf = counts[i][word]
                    norm = K1 * (1 - B + B * counts[i].total() / mean)
                    scores[i] += self.boosts[field] * weight * (K1 + 1) * tf / (norm + tf)
        pages: dict[str, float] = {}
        for i, score in scores.items():
            page, _, section = self.docs[i]["location"].partition("#")
            hit = sum(any(i in self.holding[word] for word in words) for words in found.values())
            boost = (not section) + hit / len(found)
            pages[page] = max(pages.get(page, 0.0), score * (1 + boost**2))
        return sorted(pages, key=lambda page: -pages[page])


@pytest.fixture(scope="module")
def search(site):
    return Search(site / "search" / "search_index.json")


@pytest.mark.parametrize(("query", "page"), ASKED.items())
def test_a_question_in_peoples_words_finds_its_page(search, query, page):
    found = search.pages(query)[:3]
    assert f"howto_{page}.html" in found, found


def test_the_search_finds_words_that_begin_so_and_titles_first(tmp_path):
    docs = [
        {"location": "a.html", "title": "Other", "text": "<p>dead latents, dead latents</p>"},
        {"location": "b.html", "title": "B", "text": ""},
        {"location": "b.html#c", "title": "Dead latents", "text": "here"},
    ]
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"config": {"separator": r"[\s,]+"}, "docs": docs}))
    assert Search(file).pages("latent") == ["b.html", "a.html"] and Search(file).pages("alive") == []


def test_every_howto_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert {f"howto_{page}.md" for page in ASKED.values()} <= {*re.findall(r"howto_\w+\.md", nav)}
