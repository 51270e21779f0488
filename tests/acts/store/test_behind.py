"""The model behind a store is opened as the store was made."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import save_tiny_lm
from tests.models.thought.fake import make_codi
from tests.planted import thought_store
from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.extract.stage import extract
from thoughtlens.acts.store.behind import language_model, made_with, thought_model
from thoughtlens.acts.store.meta import load_meta
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.acts.store.writer import META
from thoughtlens.core import MismatchError, NotThereError, StoreError, validate_config, write_json
from thoughtlens.core.records.manifest import LIST
from thoughtlens.evals.heldout.fidelity import Splicer
from thoughtlens.models.hf.config import ModelConfig
from thoughtlens.models.thought.codi import Codi
from thoughtlens.studies.sweep.measure import _bench


@pytest.fixture(params=["float32", "bfloat16"])
def text(request, tmp_path, tiny_lm_dir) -> ActivationStore:
    (tmp_path / "t.txt").write_text("\n\n".join(f"the cat sat on mat {i} and stayed" for i in range(40)))
    table = {
        "model": {"name": str(tiny_lm_dir), "dtype": request.param},
        "problems": {"source": str(tmp_path / "t.txt"), "validation": 0.2, "test": 0.2},
        "hook_names": ["layers.1:out"],
        "context_length": 32,
    }
    extract(validate_config(ExtractConfig, table), tmp_path / "acts")
    return ActivationStore.open(tmp_path / "acts")


@pytest.fixture(scope="module")
def thoughts(tmp_path_factory) -> ActivationStore:
    """Of a CODI checkpoint that thinks after an eos, which is not what such a checkpoint is taken for."""
    root = tmp_path_factory.mktemp("behind")
    fake = make_codi(root / "codi", "gpt2")
    table = {
        "model": {"name": str(fake.file), "dtype": "float32"},
        "base": str(fake.base),
        "eos_before": True,
        "eos_after": True,
        "problems": {"source": "arithmetic", "n": 40},
        "max_new_tokens": 2,
    }
    extract(validate_config(ExtractConfig, table), root / "acts")
    return ActivationStore.open(root / "acts")


def without_digest(store: ActivationStore) -> ActivationStore:
    (store.root / LIST).unlink()
    meta = load_meta(store.root).model_copy(update={"model_digest": None})
    write_json(store.root / META, meta.model_dump(mode="json"))
    return ActivationStore.open(store.root)


def test_a_store_is_spliced_in_the_dtype_it_was_made_in(text):
    splicer = Splicer(text, model=None, split="test", ce_tokens=20, mean_rows=10, seed=0)
    assert splicer.lm is not None
    assert str(splicer.lm.model.dtype) == f"torch.{made_with(text).model.dtype}"


def test_a_sweep_opens_the_checkpoint_as_extraction_did(thoughts):
    for model in (thought_model(thoughts), _bench(thoughts, "test", 4, 0).model):
        assert isinstance(model, Codi) and model.start_ids[0] == model.eos_id
        assert model.lm.dtype == torch.float32 and model.digest == thoughts.meta.model_digest


def test_other_weights_are_refused(text, tmp_path):
    other = ModelConfig(name=str(save_tiny_lm(tmp_path / "other", seed=1)), dtype="float32")
    with pytest.raises(MismatchError, match=r"come from other weights of .*: set ce_tokens=0"):
        language_model(text, other, remedy="set ce_tokens=0")


def test_a_store_that_names_no_weights_is_refused_unless_a_model_is_chosen(text):
    chosen, text = made_with(text).model, without_digest(text)
    with pytest.raises(StoreError, match=r"does not say which weights .* extract again"):
        language_model(text)
    assert language_model(text, chosen).name == chosen.name


def test_a_store_of_another_kind_or_without_its_model(text, tmp_path):
    with pytest.raises(StoreError, match="activations of thoughts"):
        thought_model(text)
    planted = ActivationStore.open(thought_store(tmp_path / "planted", torch.ones(2, 2, 1, 16).numpy(), {}))
    assert made_with(planted).model == ModelConfig(name="planted", dtype="float32")
    with pytest.raises(NotThereError, match="planted"):
        thought_model(planted)


def test_a_device_that_is_not_here_is_said_and_replaced(text, monkeypatch, capsys):
    settings = made_with(text)
    away = settings.model_copy(update={"model": settings.model.model_copy(update={"device": "cuda:7"})})
    monkeypatch.setattr("thoughtlens.acts.store.behind.made_with", lambda store: away)
    assert language_model(text).model.device.type == "cpu"
    assert "runs on cpu now" in capsys.readouterr().err


def test_a_chosen_model_is_run_as_the_store_was_made_unless_it_says_otherwise(text, tiny_lm_dir, capsys):
    own = made_with(text).model.dtype
    assert str(language_model(text, ModelConfig(name=str(tiny_lm_dir))).model.dtype) == f"torch.{own}"
    assert "as asked for" not in capsys.readouterr().err
    other = "float32" if own == "bfloat16" else "bfloat16"
    chosen = ModelConfig(name=str(tiny_lm_dir), dtype=other)
    assert str(language_model(text, chosen).model.dtype) == f"torch.{other}"
    assert f"made in {own}" in capsys.readouterr().err


def test_a_store_without_its_config_still_says_how_it_was_read(text, capsys):
    made = made_with(text)
    (text.root / "config.toml").unlink()
    again = made_with(ActivationStore.open(text.root))
    for name in ("bos", "drop_special", "context_length", "max_windows"):
        assert getattr(again, name) == getattr(made, name)
    assert again.model == made.model
    language_model(text)
    assert "float32 is assumed" not in capsys.readouterr().err
    (text.root / LIST).unlink()
    meta = load_meta(text.root).model_copy(update={"reading": {}})
    write_json(text.root / META, meta.model_dump(mode="json"))
    language_model(ActivationStore.open(text.root))
    assert "does not say what its model computed in: float32 is assumed" in capsys.readouterr().err
