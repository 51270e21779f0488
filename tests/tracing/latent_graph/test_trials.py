"""Direct effects of latents on a linear model, whose matrices are what they have to be, to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tracing.circuit.linear import THOUGHTS, D, Linear
from thoughtlens import sae as saes
from thoughtlens.models import Place
from thoughtlens.tracing.graphs.trials import through
from thoughtlens.tracing.latent_graph.cells import Cell
from thoughtlens.tracing.latent_graph.cuts import Cuts, Part
from thoughtlens.tracing.latent_graph.origins import OfCell, OfWords, by_position
from thoughtlens.tracing.latent_graph.runs import STATE, Runs
from thoughtlens.tracing.latent_graph.trials import ANSWER, Target, Trials, Way, judged

HOOK = "layers.0:out"
TOKEN = 3


@pytest.fixture(scope="module")
def dictionary():
    """Latents 0..3 are the coordinates above 0 and 4..7 those below, so that nothing is left unexplained."""
    sae = saes.create(saes.ReLUConfig(d_sae=2 * D, normalization="none", l1=0.0), D, seed=0)
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        sae.W_dec.copy_(both)
        sae.W_enc.copy_(both.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def trials(dictionary):
    model = Linear()
    cells = [Cell(Place(HOOK, p), "planted", dictionary) for p in range(THOUGHTS)]
    runs = Runs.of(model, cells, ["1 2 3", "1 5 3"])
    origins = [OfWords(runs, [f"word {i}" for i in range(3)], torch.zeros_like(by_position(runs.memory)[0]))]
    targets = {None: [Target(ANSWER, TOKEN, 1.0)]}
    for cell in cells:
        acts = cell.acts(runs.x[cell.place][:1])[0]
        active = torch.nonzero(acts)[:, 0].tolist()
        origins.append(OfCell(runs, [_name(cell, j) for j in (*active, None)], cell, [*active, None]))
        targets[cell.place] = [Target(_name(cell, j), j, float(acts[j])) for j in active]
    return Trials(runs, origins, targets, batch_size=1000)


def _name(cell, latent):
    return f"{cell.thought} {'error' if latent is None else latent}"


def _latents(trials, p):
    return [(int(t.node.split()[1]), t.has) for t in trials.targets[Place(HOOK, p)]]


def _direction(latent):
    return torch.eye(D)[latent % D] * (1 if latent < D else -1)


@pytest.fixture(scope="module")
def found(trials):
    slopes = trials.slopes()
    return slopes, trials.tried([*slopes], n_random=8, seed=0)


def test_what_goes_by_the_state_is_the_models_matrix(trials, found):
    # removing latent i takes a_i d_i from z of the next thought, and A makes u of it
    model = trials.runs.model
    for p in range(THOUGHTS - 1):
        for i, a in _latents(trials, p):
            for j, has in _latents(trials, p + 1):
                own = found[1][Way(f"{p} {i}", f"{p + 1} {j}", STATE)]
                expected = a * float(_direction(i) @ model.A @ _direction(j)) / has
                assert own.effect + own.at_random == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_what_goes_by_keys_and_values_is_remembered_of_the_next_thought(trials, found):
    model = trials.runs.model
    for i, a in _latents(trials, 0):
        for j, has in _latents(trials, 2):
            own = found[1][Way(f"0 {i}", f"2 {j}", "layers.0:kv")]
            expected = a * float(_direction(i) @ model.V @ _direction(j)) / has
            assert own.effect + own.at_random == pytest.approx(expected, abs=1e-5, rel=1e-5)
        own = found[1][Way(f"0 {i}", ANSWER, "layers.0:kv")]
        logits = a * _direction(i) @ model.V @ model.C
        assert own.effect + own.at_random == pytest.approx(float((logits - logits.mean())[TOKEN]), abs=1e-5)


def test_a_word_reaches_every_thought_by_what_is_remembered_of_it(trials, found):
    model, runs = trials.runs.model, trials.runs
    values = runs.memory[0][1][0, 0]
    for p in range(THOUGHTS):
        for j, has in _latents(trials, p):
            own = found[1][Way("word 1", f"{p} {j}", "layers.0:kv")]
            expected = float(values[1] @ _direction(j)) / has
            assert own.effect + own.at_random == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert model.spec.n_layers == 1


def test_of_a_linear_model_the_slope_is_the_effect_and_there_are_no_other_ways(trials, found):
    slopes, tried = found
    for way, slope in slopes.items():
        assert tried[way].effect + tried[way].at_random == pytest.approx(slope, abs=2e-3, rel=2e-3)
        source, target = way.source.split()[0], way.target.split()[0]
        if source.isdigit() and target.isdigit():
            assert int(source) < int(target)
            assert (way.route == STATE) == (int(target) == int(source) + 1)
    assert not any("error" in way.source for way in slopes)


def test_a_source_that_a_twin_lacks_counts_only_where_it_is(trials, found):
    _, tried = found
    same, other = (tried[Way(f"word {i}", ANSWER, "layers.0:kv")] for i in (0, 1))
    assert len(same.over) == 1 and same.over[0] == pytest.approx(same.effect, rel=1e-4)
    assert not other.over


def test_the_share_of_a_node_is_what_goes_with_it_when_all_follows(trials):
    model, shares = trials.runs.model, trials.shares()
    for i, a in _latents(trials, 2):
        logits = a * _direction(i) @ model.V @ model.C  # of thought 3, which remembers what thought 2 made
        assert shares[f"2 {i}"] == pytest.approx(float((logits - logits.mean())[TOKEN]), abs=1e-5)


def test_an_effect_counts_beyond_what_random_directions_do():
    # of -1 and 1 the mean is 0 and s = sqrt(2); one more draw differs from the mean by s sqrt(1 + 1/2)
    drawn, none = np.array([-1.0, 1.0]), np.zeros(0)
    assert judged(0.0, drawn, none).p == 1.0
    t = 2.0 / (2**0.5 * 1.5**0.5)
    assert judged(2.0, drawn, none).p == pytest.approx(1 - 2 / np.pi * np.arctan(t))  # Student's t, 1 degree
    assert judged(0.5, drawn + 0.5, none).effect == 0.0


def test_flow_is_shared_out_among_the_edges_into_a_node():
    ways = {
        Way("a", ANSWER, "x"): 3.0,
        Way("b", ANSWER, "x"): -1.0,
        Way("c", "a", "x"): 0.5,
        Way("c", "b", "x"): 2.0,
        Way("d", "b", "x"): 2.0,
    }
    flow = through(ways, [ANSWER, "a", "b", "c", "d"])
    # 3/4 and 1/4 into the answer; all of a's from c; half of b's from each of c and d
    assert [*flow.values()] == pytest.approx([0.75, 0.25, 0.75, 0.125, 0.125])


def test_cutting_everything_gives_the_others_answer_and_keeping_everything_the_own(trials, dictionary):
    runs = trials.runs
    donors = Runs.of(runs.model, runs.cells, ["4 0 2", "0 3 5"])
    parts = {f"word {i}": Part(None, position=i) for i in range(3)}
    for cell in runs.cells:
        parts |= {_name(cell, j): Part(cell.place, j) for j in (*range(2 * D), None)}
    cuts = Cuts(runs, donors, int(runs.logits[0].argmax()), parts, [])
    everything, nothing = {*parts}, set[str]()
    assert cuts.keep(everything).share == pytest.approx(1, abs=1e-5)
    assert cuts.cut(nothing).share == pytest.approx(1, abs=1e-5)
    assert cuts.keep(nothing).share == pytest.approx(0, abs=1e-5)
    assert cuts.cut(everything).share == pytest.approx(0, abs=1e-5)
    assert cuts.cut(nothing).same == 1.0
