"""Texts that begin with BOS, chats, copies: a store holds what the model makes of their own tokens."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import save_tiny_lm
from tests.models.thought.fake import make_codi
from thoughtlens.acts import ActivationStore, ExtractConfig, language_model
from thoughtlens.acts.extract.stage import extract
from thoughtlens.core import validate_config
from thoughtlens.evals.heldout.windows import held_out_text
from thoughtlens.latents.codes.reading import TextReader
from thoughtlens.models import capture

HOOK = "layers.1:out"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = save_tiny_lm(tmp_path_factory.mktemp("begun") / "lm")
    (root / "chat_template.jinja").write_text(TEMPLATE)
    return root


def store(root, model, rows, **settings) -> ActivationStore:
    root.mkdir(exist_ok=True)
    (root / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {"source": str(root / "t.jsonl"), "validation": 0, "test": 0.5, **settings.pop("problems", {})}
    table = {"model": {"name": str(model), "dtype": "float32"}, "problems": problems, "hook_names": [HOOK]}
    table |= {"store_dtype": "float32", "context_length": 64, **settings}
    extract(validate_config(ExtractConfig, table), root / "acts")
    return ActivationStore.open(root / "acts")


def off(found: ActivationStore, line: int, tokens: list[int]) -> float:
    """Largest distance between the stored rows of a document and what the model makes of these tokens."""
    own = np.flatnonzero(found.problem_idx == line)
    x = capture(language_model(found).model, torch.tensor([tokens]), None, [HOOK])[HOOK][0]
    position = found.rows["position"].to_numpy()[own]
    return float((found.read(HOOK, own) - x[torch.from_numpy(position)]).abs().max())


TEXTS = [f"the cat number {i} sat down" for i in range(12)]


@pytest.mark.parametrize(("bos", "heads"), [("tokenizer", 1), ("always", 1), ("never", 0)])
@pytest.mark.parametrize("begun", [False, True])
def test_no_text_gets_a_second_begin_token(model, tmp_path, bos, heads, begun):
    rows = [{"text": "<s>" * begun + text} for text in TEXTS]
    found = store(tmp_path, model, rows, bos=bos)
    lm = language_model(found)
    tokens = [1] * (heads or begun) + list(lm.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert off(found, 0, tokens) < 1e-5
    read = next(iter(TextReader.like(found).read([rows[0]["text"]], [HOOK])))
    own = np.flatnonzero(found.problem_idx == 0)
    assert torch.allclose(read.acts[HOOK], found.read(HOOK, own), atol=1e-5)
    windows = held_out_text(found, "test", lm, drop_outliers=False, n_tokens=40, seed=0)
    for window in windows:
        assert off(found, window.problem, window.tokens.tolist()) < 1e-5
        assert window.tokens.tolist().count(1) == (heads or begun)
    (found.root / "config.toml").unlink()  # as a store that was copied without it: its meta says the same
    moved = ActivationStore.open(found.root)
    read = next(iter(TextReader.like(moved).read([rows[0]["text"]], [HOOK])))
    assert torch.allclose(read.acts[HOOK], found.read(HOOK, own), atol=1e-5)
    again = held_out_text(moved, "test", lm, drop_outliers=False, n_tokens=40, seed=0)
    assert [w.tokens.tolist() for w in again] == [w.tokens.tolist() for w in windows]


CHATS = [
    {"c": [{"role": "user", "content": f"what is {i}"}, {"role": "assistant", "content": f"{i} is a number"}]}
    for i in range(24)
]


@pytest.mark.parametrize("roles", [(), ("assistant",)])
@pytest.mark.parametrize("drop", [True, False])
def test_chats_are_read_whole_and_spliced_where_they_have_rows(model, tmp_path, roles, drop):
    asked = {"column": "c", "chat": True, "roles": roles}
    found = store(tmp_path, model, CHATS, problems=asked, drop_special=drop)
    lm = language_model(found)
    text = found.problems["question"][0].as_py()
    assert text == "<s>[user] what is 0</s>[assistant] 0 is a number</s>"
    tokens = list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert tokens.count(1) == 1 and off(found, 0, tokens) < 1e-5
    ids = found.rows["token_id"].to_numpy()[found.problem_idx == 0]
    said = lm.tokenizer.decode(ids)
    assert ("user" in said, "</s>" in said) == (not roles, not drop and not roles)
    windows = held_out_text(found, "test", lm, drop_outliers=False, n_tokens=200, seed=0)
    assert windows and all(w.tokens[0] == 1 and 2 in w.tokens[:-1] for w in windows)
    assert (sum(w.n_uncovered for w in windows) > len(windows)) == (drop or bool(roles))
    result = json.loads((found.root / "result.json").read_text())
    assert (result["n_tokens_left_out"] > 0) == (drop or bool(roles))


def test_copies_of_documents_are_said(model, tmp_path):
    rows = [{"text": text} for text in (*TEXTS, TEXTS[0].upper() + "!", TEXTS[1] + " .")]
    found = store(tmp_path, model, rows)
    result = json.loads((found.root / "result.json").read_text())
    assert (result["n_problems"], result["n_groups"]) == (14, 12)
    assert any("2 of 14 documents are copies of another" in line for line in result["warnings"])
    assert found.group_idx[12] == found.group_idx[0] and len(np.unique(found.group_idx)) == 12


@pytest.mark.parametrize(("prompt", "said"), [(None, 2), ("{question}", 0)])
def test_questions_that_are_read_with_other_spaces_are_counted(tmp_path, prompt, said):
    fake = make_codi(tmp_path / "codi", "gpt2")
    questions = ["what is  two", "plain one", " three "]
    ids = ["a", "b", "c"]
    table = {"problem_id": ids, "group_id": ids, "split": ["train"] * 3, "question": questions}
    pq.write_table(pa.table({**table, "answer": ids, "cot": [""] * 3}), tmp_path / "p.parquet")
    cfg = {
        "model": {"name": str(fake.file), "dtype": "float32"}, "base": str(fake.base), "prompt": prompt,
        "problems": {"kind": "problems", "source": str(tmp_path / "p.parquet")}, "max_new_tokens": 2,
    }  # fmt: skip
    result = extract(validate_config(ExtractConfig, cfg), tmp_path / "acts")
    notes = [line for line in result["warnings"] if "double spaces" in line]
    assert [line.split()[0] for line in notes] == [str(said)] * (said > 0)
