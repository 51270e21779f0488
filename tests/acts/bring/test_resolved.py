"""States of a model that somebody names, with hooks at places that somebody says: what runs it works."""

from __future__ import annotations

import pytest

from thoughtlens.acts import ActivationStore, import_activations, thought_model
from thoughtlens.core import NotThereError, validate_config
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.stage import lens
from thoughtlens.models import collect, load_model
from thoughtlens.problems import GeneratedConfig, source

N = 80


@pytest.fixture(scope="module")
def arrays():
    table = source.find(GeneratedConfig(source="arithmetic", n=N)).table
    batch = collect(load_model("codi-tiny"), table["question"].to_pylist(), sites=("resid",))
    x = batch.x.transpose(1, 2).numpy()
    columns = {name: table[name] for name in ("problem_id", "split", "question", "answer", "v1")}
    return {"x": x, "hook_names": [f"block {i}" for i in range(x.shape[1])], **columns}


def brought(arrays, out, **settings):
    import_activations(arrays, out, first_thought=1, **settings)
    return ActivationStore.open(out)


def test_the_model_opens_and_the_lens_reads(arrays, tmp_path, capsys):
    places = tuple(f"block {i}=layers.{i}:out" for i in range(len(arrays["hook_names"])))
    store = brought(arrays, tmp_path / "acts", hook=places, model="codi-tiny")
    assert store.hook_names == [place.partition("=")[2] for place in places] and not store.meta.unresolved
    assert thought_model(store).name == "codi-tiny"
    assert "not compared" in capsys.readouterr().err
    cfg = validate_config(LensConfig, {"acts": store.root, "lenses": ["logit"], "columns": ["answer"]})
    assert lens(cfg, tmp_path / "lens")["n"] == store.problems["split"].to_pylist().count("test")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({}, "nobody said of which model"), ({"model": "codi-tiny"}, "--hook 'block 0'=layers.3:out")],
)
def test_what_nobody_said_is_asked_for(arrays, tmp_path, settings, says):
    with pytest.raises(NotThereError, match=says):
        thought_model(brought(arrays, tmp_path / "acts", **settings))
