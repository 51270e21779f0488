"""Names of graphs."""

from __future__ import annotations

from thoughtlens.tracing import name_of


def test_names_of_graphs_are_names_of_files():
    assert name_of("problem", "12") == "problem-12"
    assert name_of("text", "The capital of France is").startswith("text-the-capital-of-")
    long, other = name_of("text", "A" * 40), name_of("text", "A" * 41)
    assert long != other and len(long) < 32
    assert name_of("text", "") != "text"
    asked = [("3-2",), ("3+2",), ("3*2",), ("a b",), ("a", " b"), ("A b",), ("a. b",)]
    assert len({name_of("text", *one) for one in asked}) == len(asked)


def test_texts_that_differ_in_letters_of_other_scripts_have_other_names():
    names = {name_of("problem", text) for text in ("1", "问题 1", "задача 1", "問題", "你好", "\udcff 1")}
    assert len(names) == 6 and all(name.isascii() and name.startswith("problem-") for name in names)
