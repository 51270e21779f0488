"""States of a model that somebody names, with hooks at places that somebody says: what runs it works."""

from __future__ import annotations

import pytest

from thoughtlens import cli
from thoughtlens.acts import ActivationStore, import_activations, place, thought_model
from thoughtlens.core import (
    BY_NAME,
    ConfigError,
    HookError,
    NotThereError,
    read_json,
    validate_config,
    verify,
)
from thoughtlens.interventions.intervene.config import of_run
from thoughtlens.latents.lens.config import LensConfig
from thoughtlens.latents.lens.stage import lens
from thoughtlens.models import collect, load_model
from thoughtlens.problems import GeneratedConfig, source
from thoughtlens.sae import load_members

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


def test_places_are_said_later_and_what_was_trained_is_kept(arrays, tmp_path, monkeypatch):
    run = tmp_path / "run"
    store = brought(arrays, run / "acts")
    before = store.read("block 0", range(9))
    train = {"acts": run / "acts", "sae": {"kind": "topk", "k": 2, "d_sae": 8}, "batch_size": 64, "epochs": 1}
    BY_NAME["train"].run(validate_config(BY_NAME["train"].config, train), run / "sae")
    weights = load_members(run / "sae")["pooled"].W_enc.clone()
    hooks = [f"--hook=block {i}=layers.{i}:out" for i in range(2)]
    monkeypatch.setattr(
        "sys.argv", ["thoughtlens", "import", *hooks, "model=codi-tiny", "--out", str(run / "acts")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    verify(run)
    store, sae = ActivationStore.open(run / "acts"), load_members(run / "sae")["pooled"]
    assert store.hook_names == sae.hook_names == ["layers.0:out", "layers.1:out"]
    assert (store.read("layers.0:out", range(9)) == before).all() and (sae.W_enc == weights).all()
    (said,) = read_json(run / "acts" / "result.json")["placed"]
    assert said["names"] == {f"block {i}": f"layers.{i}:out" for i in range(2)}
    inputs = read_json(run / "sae" / "result.json")["inputs"]
    assert inputs["acts"]["digest"] == said["digest"] != said["digest_before"]
    assert thought_model(store).name == of_run(run)["model"]["name"] == "codi-tiny"
    place(run / "acts", ["block 0=thought_in"])  # put right, by the name that it was given at first
    assert ActivationStore.open(run / "acts").hook_names == ["thought_in", "layers.1:out"]


@pytest.mark.parametrize(
    ("hook", "error", "says"),
    [
        (["block 7=layers.0:out"], HookError, "no hook block 7, only block 0, block 1"),
        (["block 0=block 1"], HookError, "a place of its own"),
        ([], ConfigError, "got neither"),
    ],
)
def test_places_that_cannot_be_are_refused_and_nothing_changes(arrays, tmp_path, hook, error, says):
    store = brought(arrays, tmp_path / "acts")
    with pytest.raises(error, match=says):
        place(store.root, hook)
    verify(tmp_path / "acts")
    assert [one.name for one in tmp_path.iterdir()] == ["acts"]


def test_thoughts_of_a_placed_store_can_be_changed_where_they_have_questions(arrays, tmp_path):
    places = tuple(f"block {i}=layers.{i}:out" for i in range(2))
    brought(arrays, tmp_path / "run" / "acts", hook=places, model="codi-tiny")
    stage = BY_NAME["effects"]
    cfg = validate_config(
        stage.config, {"acts": tmp_path / "run" / "acts", "edits": ["ablate mean"], "n": 4, "split": "any"}
    )
    assert stage.run(cfg, tmp_path / "run" / "intervene" / "effects")["n"] == 4
    silent = {name: values for name, values in arrays.items() if name not in ("question", "answer")}
    brought(silent, tmp_path / "silent" / "acts", hook=places, model="codi-tiny")
    with pytest.raises(ConfigError, match="without the column question and answer"):
        of_run(tmp_path / "silent")
