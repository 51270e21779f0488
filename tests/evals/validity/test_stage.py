from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.models.thought.fake import make_codi
from thoughtlens.core import ConfigError, DataError, MismatchError, NotThereError
from thoughtlens.core.stages import config
from thoughtlens.evals.validity import verdicts
from thoughtlens.evals.validity.config import GatesConfig, published
from thoughtlens.evals.validity.probe import bag_of_words, read_values
from thoughtlens.evals.validity.stage import gates, plan
from thoughtlens.interventions.edits.changes import derangement, zero
from thoughtlens.interventions.edits.places import Change
from thoughtlens.interventions.edits.run import Edit
from thoughtlens.interventions.effects.bench import Bench, patch_twins
from thoughtlens.interventions.effects.splice import require_own, splice
from thoughtlens.models.thought import tiny
from thoughtlens.models.thought.places import Place
from thoughtlens.problems.tasks import arithmetic
from thoughtlens.sae import ReLUConfig
from thoughtlens.sae.formats import io
from thoughtlens.sae.kinds.registry import create

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("gates") / "out"
    yield gates(GatesConfig(seeds=(1,), n=150), out)
    torch.set_num_threads(threads)


def test_the_shipped_model_reasons_in_its_thoughts(result):
    accuracy = result["accuracy"]
    assert accuracy["thoughts"]["low"] > 0.9 and accuracy["cot"]["low"] > 0.9
    for name in ("no_cot", "pause", "mean_ablated", "resampled"):
        assert accuracy[name]["n"] == 150 and accuracy[name]["value"] < 0.15, name
    assert [len(accuracy["by_n_thoughts"]), result["n_seeds"]] == [7, 1]
    for name in ("G1", "G2", "G3", "G3_at_the_value", "G4", "G5", "G6", "edits_bite"):
        assert result["gates"][name]["pass"] is True, name
    gap = result["gates"]["G1"]["paired"]["no_cot"]
    assert gap["n"] == 150 and gap["low"] > 0.8
    assert gap["value"] == pytest.approx(accuracy["thoughts"]["value"] - accuracy["no_cot"]["value"])
    assert result["gates"]["G0"]["pass"] is None and result["gates"]["G7"]["pass"] is None
    assert result["latent_reasoning"] is True


def test_controls_solve_one_step(result):
    for name in ("no_cot", "pause", "thoughts"):
        assert result["counts"][f"{name}_one_step"]["value"] > 0.9


def test_every_number_has_its_interval_and_n(result):
    for entry in [*result["accuracy"]["by_n_thoughts"], *result["headline"].values()]:
        assert entry["low"] <= entry["value"] <= entry["high"] and entry["n"] == 150


def bench(n: int = 40, **model) -> Bench:
    return Bench(tiny.load("codi-tiny", **model), arithmetic.problems(n, seed=3, split="test"), batch_size=16)


def test_an_edit_that_changes_nothing_is_seen_not_to_bite():
    b = bench()
    z3 = Place("thought_in", 3)
    b.run(
        [
            Edit.at("nothing", [z3], lambda p: Change(lambda x: x)),
            Edit.at("something", [z3], lambda p: zero()),
        ]
    )
    assert b.changed == {"nothing": 0.0, "something": 1.0}


def test_resampled_thoughts_are_counted_against_both_problems():
    b = bench()
    b.ablations()
    assert (b.donor != np.arange(40)).all() and sorted(b.donor) == list(range(40))
    # a donor's thoughts cannot give the own answer more often than chance allows by far
    assert b.counts["resampled"][0] < 10 < b.counts["thoughts"][0]
    right, n = b.counts["thoughts|2"]
    assert n + b.counts["thoughts|3"][1] == 40 and right <= n


def test_the_thought_that_stores_a_value_moves_the_answer():
    first, second = arithmetic.twins(40, seed=0, split="test", change="start")
    moved = patch_twins(tiny.load("codi-tiny"), first, second, 16)
    for p, (twin, own, n) in moved.items():
        assert (twin, own) == ((n, 0) if p in (3, 5) else (0, n)), p


def test_a_perfect_sae_costs_nothing_and_a_dead_one_everything(tmp_path):
    b = bench()
    sae = create(ReLUConfig(d_sae=192), 96, seed=0)
    with torch.no_grad():  # x = relu(x) - relu(-x)
        sae.W_enc.copy_(torch.cat([torch.eye(96), -torch.eye(96)], 1))
        sae.W_dec.copy_(torch.cat([torch.eye(96), -torch.eye(96)], 0))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = ["layers.0:out", "layers.1:out"]
    io.save(sae, tmp_path / "sae")
    splice(b, tmp_path / "sae")
    assert b.counts["spliced"] == b.counts["thoughts"]
    assert b.counts["spliced_shuffled"][0] < 20
    assert verdicts.survives_splicing(b.counts).holds is True
    sae.hook_names = ["layers.7:out"]
    io.save(sae, tmp_path / "strange")
    with pytest.raises(MismatchError, match=r"layers\.7:out"):
        splice(b, tmp_path / "strange")


def test_judgements_by_hand():
    counts = {"thoughts": (90, 100), "no_cot": (60, 100), "pause": (85, 100)}
    gate = verdicts.better_than_controls(counts)
    # 0.90 - 0.85 = 0.05 < 0.10
    assert gate.holds is False and gate.gaps["pause"] == pytest.approx(0.05)
    counts["pause"] = (80, 100)
    assert verdicts.better_than_controls(counts).holds is True
    # a control that cannot do one step is no control
    assert verdicts.better_than_controls(counts | {"pause_one_step": (9, 10)}).holds is False
    by_n = {f"by_n_thoughts_{n}": (right, 100) for n, right in enumerate((5, 50, 20, 90))}
    assert verdicts.grows_with_thoughts(by_n).holds is False
    assert verdicts.grows_with_thoughts(by_n | {"by_n_thoughts_2": (45, 100)}).holds is True
    assert verdicts.add([{"a": (1, 2)}, {"a": (3, 4), "b": (0, 1)}]) == {"a": (4, 6), "b": (0, 1)}
    assert verdicts.reproduces({"thoughts": (44, 100)}, 0.437).holds is True
    assert verdicts.reproduces({"thoughts": (20, 100)}, 0.437).holds is False


def test_steps_by_hand():
    counts = {f"by_n_thoughts_{n}|2": (100 if n >= 4 else 5, 100) for n in range(7)}
    assert verdicts.steps_where_value_is_produced(counts, [2]).holds is True
    counts["by_n_thoughts_3|2"] = (40, 100)  # solved before its value is there
    assert verdicts.steps_where_value_is_produced(counts, [2]).holds is False


def test_probes_read_what_is_there_and_not_what_is_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    states = {"told": np.eye(4)[labels] + 0.01, "noise": rng.normal(size=(400, 4))}
    read = read_values(states, labels, 200)
    assert read["told"] == (200, 200) and read["noise"][0] < 90
    table = arithmetic.problems(400, seed=0)
    right, n = bag_of_words(table, arithmetic.problems(200, seed=1))
    assert n == 200 and right < 100


def test_gaps_are_paired_on_the_problems_that_both_were_given():
    # 10 problems: thoughts solve 8 of which the control solves 1, and the control one more
    counts = {
        "thoughts": (8, 10),
        "pause": (2, 10),
        "thoughts_not_pause": (7, 10),
        "pause_not_thoughts": (1, 10),
    }
    gate = verdicts.better_than_controls(counts)
    gap = gate.paired["pause"]
    assert gap is not None
    # d = (7 - 1) / 10; Bonett and Price: 6 / 12 +- 1.96 sqrt((8 / 12 + 2 / 12 - 0.25) / 12) = 0.5 +- 0.4321
    assert gap.value == pytest.approx(0.6) and gap.n == 10
    assert (gap.low, gap.high) == pytest.approx((0.0679, 0.9321), abs=1e-4)
    assert gate.holds is None and gate.lacking == ["no_cot"] and gate.paired["no_cot"] is None


def test_a_checkpoint_on_gsm8k_is_held_against_what_was_published(tmp_path):
    """What `gates zen-E/CODI-gpt2 --problems gsm8k:test` does, on random weights that solve nothing."""
    fake = make_codi(tmp_path, "gpt2")
    solution = "He has 3 + 4 = <<3+4=7>>7, then 7 * 2 = <<7*2=14>>14.\n#### 1,014"
    lines = [json.dumps({"question": f"What is {i} + {i}?", "answer": solution}) for i in range(6)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    cfg = GatesConfig(
        model=str(fake.file), base=str(fake.base), eos_before=False, lora_alpha=8.0, problems="gsm8k:test",
        files=(tmp_path / "test.jsonl",), published=0.437, max_new_tokens=3,
    )  # fmt: skip
    result = gates(cfg, tmp_path / "out")
    assert (result["accuracy"]["thoughts"]["value"], result["accuracy"]["thoughts"]["n"]) == (0, 6)
    assert result["gates"]["G0"]["pass"] is False and result["gates"]["G0"]["published"] == 0.437
    assert len(result["accuracy"]["by_n_thoughts"]) == 7 and "direct" not in result["accuracy"]
    assert result["accuracy"]["cot"]["value"] == 0 and result["accuracy"]["cot"]["n"] == 6
    assert result["gates"]["edits_bite"]["pass"] is True and result["gates"]["G1"]["pass"] is None
    said = " ".join(result["warnings"])
    assert result["model_settings_assumed"] == ["n_thoughts", "eos_after"]
    assert (
        "assumed: n_thoughts = 6, eos_after = False" in said and result["model_settings"]["lora_alpha"] == 8
    )
    assert "G0 does not hold" in said and "no control no_cot and pause; name one with no_cot=" in said
    assert published(GatesConfig(model="zen-E/CODI-gpt2", problems="gsm8k:test")) == 0.437
    assert published(GatesConfig(model="zen-E/CODI-gpt2", problems="mine.parquet")) is None


def test_saes_of_another_seed_are_refused_before_anything_runs(tmp_path):
    sae = create(ReLUConfig(d_sae=8), 96, seed=0)
    sae.hook_names = ["layers.0:out"]
    sae.provenance = {"model_digest": tiny.load("codi-tiny", seed=1).digest}
    io.save(sae, tmp_path / "sae")
    require_own(tiny.load("codi-tiny", seed=1), tmp_path / "sae")
    with pytest.raises(MismatchError, match="the seed, that it was trained on"):
        gates(GatesConfig(seeds=(2,), n=2, sae=tmp_path / "sae"), tmp_path / "out")


@pytest.mark.parametrize(
    "setting", ["n=1", "seed=-1", "batch_size=0", "split=dev", "seeds=[1,1]", "published=43.7", "dtype=int8"]
)
def test_settings_that_cannot_be(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        config.load_config(GatesConfig, {}, [setting])


def test_a_model_without_controls_is_not_judged_against_them(tmp_path):
    shipped = tiny.load("codi-tiny", seed=1)
    tiny.save(shipped.decoder, tmp_path / "mine" / "seed1" / "thoughts", {})
    result = gates(GatesConfig(model=str(tmp_path / "mine"), n=110), tmp_path / "out")
    assert result["gates"]["G1"]["pass"] is None and result["latent_reasoning"] is False
    assert result["accuracy"]["no_cot"] is None
    assert "no control no_cot and pause" in result["warnings"][-1]


def test_what_cannot_be_judged_is_said(tmp_path):
    with pytest.raises(NotThereError, match="no seed 99"):
        gates(GatesConfig(seeds=(99,)), tmp_path / "a")
    with pytest.raises(ConfigError, match="only shipped models"):
        gates(GatesConfig(model=str(tmp_path / "mine.bin"), seeds=(1,)), tmp_path / "b")
    with pytest.raises(DataError, match="at least 2"):
        Bench(tiny.load("codi-tiny"), arithmetic.problems(1, seed=0))
    assert plan(GatesConfig(n=100)).rows == 300
    assert tiny.load("codi-tiny").modulus == 23


def test_a_derangement_moves_every_row():
    for n in (2, 3, 17):
        order = derangement(n, np.random.default_rng(0))
        assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()


def test_twins_whose_storing_thoughts_are_unknown_have_no_verdict():
    counts = {"twin_operand_z1": (3, 4), "own_operand_z1": (1, 4), "twin_operand_z2": (0, 4)}
    found = verdicts.twins_move(counts, {"start": [3, 5]})
    assert found.holds is None and found.others == {"twin_operand_z1": 0.75, "twin_operand_z2": 0.0}


def test_a_change_with_a_name_of_several_words_stands_beside_those_whose_thoughts_are_known():
    counts = {"twin_start_z3": (96, 100), "twin_start_z4": (0, 100), "twin_secret_start_z3": (90, 100)}
    found = verdicts.twins_move(counts, {"start": [3]})
    assert found.holds is True and found.storing == {"twin_start_z3": 0.96}
    assert found.others == {"twin_start_z4": 0.0, "twin_secret_start_z3": 0.9}
