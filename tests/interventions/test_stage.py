"""The stage on codi-tiny, whose thoughts are known: out[1..6] = o1, v1, o2, v2, o3, v3."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.models.thought.fake import QUESTIONS, make_codi
from thoughtlens.core import (
    ConfigError,
    DataError,
    HookError,
    MismatchError,
    NotThereError,
    load_config,
    to_toml,
)
from thoughtlens.interventions.edits.changes import along, zero
from thoughtlens.interventions.edits.run import Edit, run_edits
from thoughtlens.interventions.intervene.config import InterveneConfig, of_run
from thoughtlens.interventions.intervene.stage import intervene, plan
from thoughtlens.models.thought import codi, tiny
from thoughtlens.models.thought.places import Place
from thoughtlens.sae import Directions, ReLUConfig, write_directions
from thoughtlens.sae.convert.config import ConvertConfig
from thoughtlens.sae.convert.stage import convert
from thoughtlens.sae.formats import io
from thoughtlens.sae.kinds.registry import create

EDIT_KEYS = {key.removeprefix("edit.") for key in InterveneConfig.aliases.values() if key.startswith("edit.")}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(edit="ablate", **changed) -> InterveneConfig:
    own = {name: changed.pop(name) for name in EDIT_KEYS & changed.keys()}
    table = {"n": 60, "scope": ("cell",), "edit": {"kind": edit, **own}}
    return load_config(InterveneConfig, table | changed)


def identity_sae(root, hooks=("layers.0:out", "layers.1:out")):
    """x_hat = x exactly: x = relu(x) - relu(-x)."""
    sae = create(ReLUConfig(d_sae=192, normalization="none"), 96, seed=0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(96), -torch.eye(96)], 1))
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.hook_names = list(hooks)
    io.save(sae, root)
    return root


def smaller(sae):
    """Its first half, at the next layer."""
    half = create(ReLUConfig(d_sae=96, normalization="none"), 96, seed=0)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            own = getattr(half, name)
            own.copy_(getattr(sae, name)[tuple(map(slice, own.shape))])
    half.hook_names = ["layers.1:out"]
    return half


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    out = tmp_path_factory.mktemp("intervene") / "patch"
    return intervene(settings(edit="patch", change="start", thoughts=(3, 4, 5, 6)), out), out


def test_the_thought_that_stores_the_value_brings_the_twins_answer(patched):
    result, out = patched
    own = {row["thought_idx"]: row for row in result["effects"] if row["control"] is None}
    for p in (3, 5):
        assert own[p]["corrupted"] >= 0.95 and own[p]["verdict"] == "worse"
        assert own[p]["beyond_random"] < -0.3 and own[p]["p_holm"] < 0.001
    for p in (4, 6):
        assert own[p]["corrupted"] == 0 and own[p]["clean"] == 1
    table = pq.read_table(out / "effects.parquet")
    assert table["corrupted"].to_pylist() == [row["corrupted"] for row in result["effects"]]
    answers = pq.read_table(out / "answers.parquet").to_pylist()
    moved = [a["class"] == "corrupted" for a in answers if a["row"] == own[3]["row"]]
    assert np.mean(moved) == own[3]["corrupted"] and len(moved) == own[3]["n"]


def test_controls_stand_beside_every_edit(patched):
    rows = patched[0]["effects"]
    assert [row["control"] for row in rows[:2]] == [None, "random"]
    for edit, control in zip(rows[:8:2], rows[1:8:2], strict=True):
        assert control["changed_site"] == pytest.approx(edit["changed_site"], rel=1e-5)
        assert control["p_holm"] is None and edit["p_holm"] is not None
    passes = {row["thought_idx"]: row for row in rows if row["control"] == "elsewhere"}
    assert set(passes) == {0, 1, 2} and all(row["clean"] == 1 for row in passes.values())
    assert passes[0]["changed_site"] == 0
    assert any("changed nothing at their place" in line for line in patched[0]["warnings"])


def test_every_row_has_its_interval_and_proof(patched):
    for row in patched[0]["effects"]:
        assert row["low"] <= row["difference"] <= row["high"] and row["n"] > 50
        assert row["kl_low"] <= row["kl"] <= row["kl_high"]
        shares = [row[name] for name in ("clean", "predicted", "corrupted", "other", "unparsable")]
        assert sum(shares) == pytest.approx(1)
    assert patched[0]["headline"]["accuracy_untouched"]["value"] == 1.0  # only solved pairs count


def test_intervals_of_long_tails_are_doubted_in_one_line(patched):
    result = patched[0]
    doubted = [row for row in result["effects"] if row["kl_doubt"]]
    said = [line for line in result["warnings"] if "intervals of kl may be too narrow" in line]
    assert len(said) == bool(doubted) and doubted
    assert said[0].startswith(f"{len(doubted)} of ") and doubted[0]["kl_doubt"] in said[0]
    still = [row for row in result["effects"] if row["changed_site"] == 0]
    assert still and not any(row["kl_doubt"] for row in still)


def test_the_same_command_again_does_nothing_and_again_elsewhere_gives_the_same(patched, tmp_path):
    result, out = patched
    cfg = settings(edit="patch", change="start", thoughts=(3, 4, 5, 6))
    assert intervene(cfg, out)["digest"] == result["digest"]
    assert intervene(cfg, tmp_path / "again")["digest"] == result["digest"]


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(tmp_path):
    cfg = settings(edit="patch", change="start")
    file = tmp_path / "settings.toml"
    file.write_text(to_toml(cfg))
    whole = intervene(cfg, tmp_path / "whole")
    code = (
        "from pathlib import Path; from thoughtlens.core import load_config; "
        "from thoughtlens.interventions.intervene.config import InterveneConfig; "
        "from thoughtlens.interventions.intervene.stage import intervene; "
        f"intervene(load_config(InterveneConfig, {str(file)!r}), Path({str(tmp_path / 'killed')!r}))"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed.tmp" / "parts"
    while not (parts.exists() and list(parts.glob("*.json"))) and job.poll() is None:
        time.sleep(0.005)
    job.kill()
    assert job.wait() == -signal.SIGKILL, "it was still at work"
    assert not (tmp_path / "killed").exists()
    assert intervene(cfg, tmp_path / "killed")["digest"] == whole["digest"]
    for name in ("effects.parquet", "answers.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_swapping_v1_brings_what_follows_from_the_other_v1(tmp_path):
    cfg = settings(
        edit="swap", column="v1", thoughts=(3,), n=150, problems={"source": "generated", "n_steps": (2,)}
    )
    rows = {r["donor"]: r for r in intervene(cfg, tmp_path / "out")["effects"] if r["control"] is None}
    assert rows["same"]["clean"] >= 0.95 and rows["same"]["verdict"] == "equivalent"
    assert rows["different"]["predicted"] >= 0.95 and rows["different"]["clean"] <= 0.05


def test_odd_thoughts_are_read_by_keys_and_values_even_ones_by_state(tmp_path):
    result = intervene(settings(edit="route", n=50), tmp_path / "out")
    carried = {row["thought_idx"]: row["carried_by"] for row in result["routes"]}
    assert carried == {0: "nothing", 1: "nothing", 2: "state", 3: "kv", 4: "state", 5: "kv", 6: "kv"}
    last = result["routes"][-1]
    assert last["state_is_read"] is False and last["moved_state"] == 0 and last["kv_last"] == 1
    third = result["routes"][3]
    assert third["moved_values"] >= 0.95 and third["moved_keys"] <= 0.05
    assert pq.read_table(tmp_path / "out" / "routes.parquet").num_rows == 7


def test_early_exit_needs_two_thoughts_a_step(tmp_path):
    cfg = settings(edit="exit", problems={"source": "generated", "n_steps": (2,)})
    rows = {row["thought_idx"]: row for row in intervene(cfg, tmp_path / "out")["effects"]}
    assert set(rows) == {0, 1, 2, 3, 4, 5}
    assert rows[2]["accuracy"] < 0.3 and rows[4]["accuracy"] > 0.9
    assert rows[4]["changed_site"] is None and rows[0]["moved"] == 1


def test_a_perfect_reconstruction_leaves_the_answers_bit_identical(tmp_path):
    sae = identity_sae(tmp_path / "sae")
    cfg = settings(
        edit="splice", sae=str(sae), arms=("sae", "mean"), scope=("cell", "all"), n_fit=50, controls=False
    )
    result = intervene(cfg, tmp_path / "out")
    mine = [row for row in result["effects"] if row["arm"] == "sae"]
    assert len(mine) == 2 * 7 - 1 + 1  # every cell but the last block's last pass, and all at once
    for row in mine:
        assert row["kl"] == 0 and row["moved"] == 0 and row["delta_logprob"] == 0 and row["difference"] == 0
    everything = next(r for r in result["effects"] if r["arm"] == "mean" and r["scope"] == "all")
    assert everything["verdict"] == "worse" and everything["accuracy"] < 0.3


def test_editing_latents_keeps_what_the_sae_does_not_explain(tmp_path):
    sae = identity_sae(tmp_path / "sae", ("layers.0:out",))
    own = io.load(sae)
    with torch.no_grad():
        own.b_dec.fill_(0.25)  # now x_hat is not x, and the difference has to survive
    io.save(own, tmp_path / "worse")
    cfg = settings(edit="edit_latents", sae=str(tmp_path / "worse"), latents=(5, 7), scale=0.0, thoughts=(2,))
    rows = intervene(cfg, tmp_path / "out")["effects"]
    kinds = [row["control"] for row in rows]
    assert kinds[0] is None and kinds[1] == "random" and kinds[2:] == ["latents"] * 3
    assert rows[0]["latents"] == "5 7" and all("5" not in row["latents"].split() for row in rows[2:])
    assert 0 < rows[0]["changed_site"] < 0.5


def test_saes_of_several_widths_have_the_latents_and_controls_that_all_have(tmp_path):
    identity_sae(tmp_path / "saes" / "a", ("layers.0:out",))
    io.save(smaller(io.load(tmp_path / "saes" / "a")), tmp_path / "saes" / "b")
    two = {"sae": str(tmp_path / "saes"), "thoughts": (2,), "n": 20}
    for edit in ({"edit": "edit_latents", "scale": 0.0, "n_control_latents": 30}, {"edit": "steer"}):
        with pytest.raises(ConfigError, match=r"expected 0\.\.95 of this SAE, got 120"):
            intervene(settings(**two, **edit, latents=(120,)), tmp_path / "out")
    cfg = settings(**two, edit="edit_latents", scale=0.0, latents=(5,))
    rows = intervene(cfg, tmp_path / "out")["effects"]
    others = {int(row["latents"]) for row in rows if row["control"] == "latents"}
    assert others and max(others) < 96


def test_a_converted_sae_has_the_effects_of_its_own(tmp_path):
    own = identity_sae(tmp_path / "sae", ("layers.0:out",))
    convert(ConvertConfig(source=own, to="sae_lens"), tmp_path / "other")
    for edit in (
        {"edit": "splice", "arms": ("sae", "shuffled", "random_sae"), "n_fit": 50, "controls": False},
        {"edit": "edit_latents", "latents": (5,), "scale": 0.0},
        {"edit": "steer", "latents": (5,), "doses": (1.0,)},
    ):
        found = [
            intervene(settings(**edit, n=20, thoughts=(2,), sae=str(sae)), tmp_path / f"{edit['edit']}{i}")
            for i, sae in enumerate((own, tmp_path / "other"))
        ]
        mine, theirs = ([(row["accuracy"], row["kl"]) for row in one["effects"]] for one in found)
        assert theirs == [(accuracy, pytest.approx(kl, abs=1e-5)) for accuracy, kl in mine] and mine


def test_padded_batches_are_single_problems(tmp_path):
    fake = make_codi(tmp_path, "llama")
    model = codi.load(fake.file, base=fake.base, lora_alpha=8.0, eos_before=False, eos_after=False)
    edits = [Edit.at("zero", [Place("thought_in", 2), Place("layers.1:kv", 4)], lambda place: zero())]
    whole = run_edits(model, QUESTIONS, edits, batch_size=8, max_new_tokens=6)
    single = run_edits(model, QUESTIONS, edits, batch_size=1, max_new_tokens=6)
    for a, b in ((whole[0], single[0]), (whole[1][0], single[1][0])):
        assert a.text == b.text
        np.testing.assert_allclose(a.logprob, b.logprob, atol=1e-3)
        np.testing.assert_allclose(a.kl, b.kl, atol=1e-4)
        np.testing.assert_allclose(a.changed_site, b.changed_site, atol=1e-5)
    assert (whole[1][0].kl > 1e-4).all() and (whole[0].logprob < -1).all()


REFUSED = [
    ({"site": "thought_out", "thoughts": (6,)}, HookError, "fed to nothing"),
    ({"site": "resid", "thoughts": (6,), "layers": (1,)}, HookError, "nothing reads"),
    ({"site": "resid", "layers": (7,)}, HookError, r"0\.\.1"),
    ({"thoughts": (9,)}, HookError, r"thoughts 0\.\.6"),
    ({"site": "thought_in", "layers": (0,)}, HookError, "has no layers"),
    ({"site": "all", "layers": (0,)}, HookError, "leave layers out"),
    ({"thoughts": (0,)}, HookError, "No edit changed anything"),
    ({"edit": "exit", "thoughts": (6,)}, ConfigError, "untouched run"),
    ({"edit": "exit", "thoughts": (8,)}, HookError, "0..6 thoughts"),
    ({"edit": "steer"}, ConfigError, "latents="),
    ({"edit": "splice"}, ConfigError, "needs sae="),
    ({"edit": "edit_latents", "latents": (1,)}, ConfigError, "value=NUMBER"),
    ({"edit": "swap", "column": "colour"}, DataError, "no column 'colour'"),
    ({"problems": {"source": "words"}}, ConfigError, "reads problems of"),
]


@pytest.mark.parametrize(("changed", "error", "says"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_what_cannot_be_or_cannot_act_is_refused(changed, error, says, tmp_path):
    with pytest.raises(error, match=says) as caught:
        intervene(settings(n=10, **changed), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_directions_of_a_file_are_set_or_taken_out(tmp_path):
    own = Directions(np.eye(1, 96), ("first",), np.array([0.5]))
    write_directions(own, tmp_path / "d.safetensors")
    where = {"edit": "steer", "directions": str(tmp_path / "d.safetensors"), "thoughts": (3,), "n": 10}
    rows = intervene(settings(**where, scale=0.0), tmp_path / "out")["effects"]
    assert {r["edit"] for r in rows} == {"project_out_first"} and {r["direction"] for r in rows} == {"first"}
    assert "random" in {r["control"] for r in rows}
    rows = intervene(settings(**where, value=2.0), tmp_path / "set")["effects"]
    assert {r["edit"] for r in rows} == {"set_first"}
    for wrong in ({"scale": 1.0}, {"scale": 0.0, "value": 1.0}):
        with pytest.raises(ConfigError, match="value=NUMBER or scale=NUMBER"):
            intervene(settings(**where, **wrong), tmp_path / "other")


def test_only_the_projection_changes_where_a_direction_is_set():
    x = torch.tensor([[3.0, 4.0], [1.0, 5.0]])
    unit = torch.tensor([1.0, 0.0])
    # c = x . unit - 1 = 2 and 0; set to 5: x . unit = 6; scaled by 0: x . unit = 1.
    assert along(unit, 1.0, value=5.0, scale=None).fn(x).tolist() == [[6.0, 4.0], [6.0, 5.0]]
    assert along(unit, 1.0, value=None, scale=0.0).fn(x).tolist() == [[1.0, 4.0], [1.0, 5.0]]


def test_doses_that_overflow_are_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.eye(2, 96))
    where = {"edit": "steer", "directions": str(tmp_path / "d.npy"), "thoughts": (3,), "n": 10}
    with pytest.raises(ConfigError, match="largest dose that fits") as caught:
        intervene(settings(**where, doses=(1e30,)), tmp_path / "out")
    largest = float(str(caught.value).split()[-1])
    assert 1e15 < largest < 1e20
    with pytest.raises(ConfigError, match="a dose of 0"):
        intervene(settings(**where, doses=(0.0,)), tmp_path / "out")
    rows = intervene(settings(**where, doses=(-1.0, 1.0)), tmp_path / "out")["effects"]
    assert [r["direction"] for r in rows if r["control"] is None] == ["direction_0"] * 2 + ["direction_1"] * 2
    np.save(tmp_path / "narrow.npy", np.ones(7))
    with pytest.raises(MismatchError, match="width 7"):
        intervene(settings(**where | {"directions": str(tmp_path / "narrow.npy")}), tmp_path / "other")
    with pytest.raises(NotThereError, match="found none"):
        intervene(settings(**where | {"directions": str(tmp_path / "gone.npy")}), tmp_path / "other")


def test_saes_that_do_not_fit_are_refused(tmp_path):
    for name in ("a", "b"):
        identity_sae(tmp_path / "two" / name)
    with pytest.raises(ConfigError, match="member=NAME: a, b"):
        intervene(settings(edit="splice", sae=str(tmp_path / "two")), tmp_path / "out")
    strange = identity_sae(tmp_path / "strange", ("layers.7:out",))
    with pytest.raises(MismatchError, match=r"layers\.7:out"):
        intervene(settings(edit="splice", sae=str(strange)), tmp_path / "out")
    one = {"sae": str(tmp_path / "two"), "member": "a"}
    with pytest.raises(ConfigError, match=r"expected 0\.\.191"):
        intervene(settings(edit="edit_latents", latents=(500,), scale=0.0, **one), tmp_path / "out")
    with pytest.raises(NotThereError, match="it has a, b"):
        intervene(settings(edit="splice", sae=one["sae"], member="c"), tmp_path / "out")
    with pytest.raises(HookError, match="trained on layers"):
        intervene(settings(edit="splice", **one, thoughts=(9,)), tmp_path / "out")


def test_what_nobody_reads_of_pause_tokens_cannot_be_edited(tmp_path):
    """In the pause control no pass reads the state before it."""
    decoder = tiny.load("codi-tiny", seed=1, variant="pause").decoder
    tiny.save(decoder, tmp_path / "pause", {})
    model = {"name": str(tmp_path / "pause"), "dtype": "float32"}
    for asked in (None, (2,)):
        with pytest.raises(HookError, match="its thoughts are pause tokens"):
            intervene(settings(model=model, site="thought_out", thoughts=asked), tmp_path / "out")
    with pytest.raises(HookError, match="No edit changed anything"):  # its inputs are the same for all
        intervene(settings(model=model, method="resample"), tmp_path / "in")


def test_a_run_gives_its_own_model_problems_and_saes(tmp_path):
    with pytest.raises(NotThereError, match="store of activations"):
        of_run(tmp_path)
    assert plan(settings()).rows == 60 * 16 * 2
