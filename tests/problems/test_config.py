"""Which settings a source has, however they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.core import ConfigError, load_config
from thoughtlens.interventions.intervene.config import InterveneConfig
from thoughtlens.problems.config import GeneratedConfig, Gsm8kConfig, TableConfig, TextConfig

GENERATED = {"kind": "problems", "source": "generated", "n": 5, "n_steps": [2]}
OF_FILE = Gsm8kConfig(files=(Path("test.jsonl"),))
TEXT = {"kind": "text", "source": "bundled", "n_documents": 5}


@pytest.mark.parametrize(
    ("recipe", "overrides", "found"),
    [
        (None, [], TextConfig()),
        (None, ["problems=gsm8k"], Gsm8kConfig()),
        (
            None,
            ["problems.source=gsm8k", 'problems.files=["test.jsonl"]'],
            OF_FILE,
        ),
        (None, ['problems.files=["test.jsonl"]'], OF_FILE),
        (None, ["problems.n=4"], GeneratedConfig(n=4)),
        (None, ["problems=my.parquet"], TextConfig(source="my.parquet")),
        (None, ["problems=my.parquet", "problems.n=4"], TableConfig(source="my.parquet", n=4)),
        (GENERATED, [], GeneratedConfig(source="generated", n=5, n_steps=(2,))),
        (GENERATED, ["problems=gsm8k"], Gsm8kConfig(n=5)),
        (GENERATED, ["problems=my.parquet"], TableConfig(source="my.parquet", n=5)),
        (TEXT, ["problems=x.txt"], TextConfig(source="x.txt", n_documents=5)),
        (TEXT, ["problems.kind=problems", "problems.source=words"], GeneratedConfig(source="words")),
    ],
)
def test_the_source_says_which_settings_there_are(recipe, overrides, found):
    assert load_config(ExtractConfig, {"problems": recipe} if recipe else {}, overrides).problems == found


def test_an_edit_takes_problems_and_no_text():
    assert load_config(InterveneConfig, {}).problems == GeneratedConfig(source="generated")
    table = load_config(InterveneConfig, {}, ["problems=my.parquet"]).problems
    assert table == TableConfig(source="my.parquet")


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        ({"nn": 3}, "unknown key 'problems.nn'; did you mean 'problems.n'"),
        (GENERATED | {"file": []}, "unknown key 'problems.file'; did you mean 'problems.files'"),
        (GENERATED | {"files": []}, "problems.files: generated has no such setting"),
        (TEXT | {"colum": "a"}, "did you mean 'problems.column'"),
        ({"source": "gsm8k", "n": 0}, "problems.n: .*greater than 0"),
    ],
)
def test_wrong_keys(problems, says):
    with pytest.raises(ConfigError, match=says):
        load_config(ExtractConfig, {"problems": problems})
