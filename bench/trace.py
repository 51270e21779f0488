"""What `trace` reaches on the shipped models: verified steps, controls, and where wrong answers go wrong.

    python bench/trace.py [--n 1000] [--seed 77] [--also DIR ...] > bench/results/DATE-trace.json

Problems are of split `test`, made with a seed that nobody chose settings on. Errors are made at a known step:
the state of another problem put in at thought 2..6, noise as long as the state, leaving early. Only problems
that the untouched model solves and the error breaks count, and among those of `n_steps` that have this step.
`named`: with the structure check, which reads off the question which operations it asks for;
`named_by_values_alone`: without it. "Always the first step" stands beside both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thoughtlens.latents import of_thoughts
from thoughtlens.models import Hook, Place, collect, thoughts, tiny
from thoughtlens.problems import arithmetic, first_break, rule_of, words
from thoughtlens.tracing.chains.tried import LABELS, VERIFIED, trace
from thoughtlens.tracing.read.fitted import Material, choose, discriminant
from thoughtlens.tracing.read.lenses import logit_lens
from thoughtlens.tracing.read.seen import Seen, renamed, seen, shuffled

NOISE = (0.1, 0.2, 0.35)
MODELS = (("codi-tiny", 1), ("codi-tiny", 2), ("codi-tiny", 7), ("codi-words", 1))


def main() -> None:
    """Print one JSON object per model."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--n", type=int, default=1000)
    options.add_argument("--seed", type=int, default=77)
    options.add_argument("--also", nargs="*", default=[], help="directories of further models")
    options.add_argument("--short", nargs="*", default=[], help="models of bench/short.py, and nothing else")
    args = options.parse_args()
    for path in args.short:
        print(json.dumps(_short(path, args.n, args.seed)), flush=True)
    if args.short:
        return
    for name, seed in [*MODELS, *((path, None) for path in args.also)]:
        print(json.dumps(_of(name, seed, args.n, args.seed)), flush=True)


def _of(name: str, seed: int | None, n: int, problems: int) -> dict:
    model = tiny.load(name, seed=seed)
    module = words if model.cfg.problems == "words" else arithmetic
    table = module.problems(n, seed=problems, split="test", p=model.modulus)
    rng = np.random.default_rng(0)
    questions = table["question"].to_pylist()
    rule = rule_of(questions, model.modulus)
    assert rule is not None
    lenses = _lenses(model, module, rule)
    arms = {"thoughts": (model, lambda one: one)}
    arms["shuffled"] = (model, shuffled(n, rng))
    arms["renamed"] = (model, renamed(lenses.words, rule.is_value, rng))
    if (seed, "pause") in tiny.members(name):
        arms["pause"] = (tiny.load(name, seed=seed, variant="pause"), lambda one: one)
    out = {
        "model": Path(name).parent.name if seed is None else name,
        "seed": seed,
        "n": n,
        "problems": problems,
        "arms": {},
    }
    for arm, (who, relabel) in arms.items():
        start = time.monotonic()
        read = lenses if who is model else _lenses(who, module, rule)
        found = trace(who, partial(_run, who, read), rule, questions, relabel=relabel)
        out["arms"][arm] = _counts(found.steps, table) | {"seconds": round(time.monotonic() - start, 1)}
    out["read_by"] = {str(p): lens.kind for p, lens in lenses.at.items()}
    if (name, seed) == MODELS[0]:
        out["damaged"] = [
            {"noise": noise} | _agreement(_noisy(name, seed, noise), table, module, rule) for noise in NOISE
        ]
    return out | {"errors": _errors(model, lenses, rule, table)}


def _noisy(name, seed, noise):
    """A worse model: noise in every weight, as a share of its spread."""
    model = tiny.load(name, seed=seed)
    generator = torch.Generator().manual_seed(0)
    for weight in model.decoder.parameters():
        weight.add_(noise * float(weight.std()) * torch.randn(weight.shape, generator=generator))
    return model


def _short(path, n, problems) -> dict:
    """A model that was trained for too short a time."""
    model = tiny.load(path)
    module = words if model.cfg.problems == "words" else arithmetic
    table = module.problems(n, seed=problems, split="test", p=model.modulus)
    rule = rule_of(table["question"].to_pylist(), model.modulus)
    assert rule is not None
    training = json.loads((Path(path) / "config.json").read_text())["training"]
    about = {"seed": training["seed"], "steps": training["steps"], "n": n, "problems": problems}
    return about | _agreement(model, table, module, rule)


def _agreement(model, table, module, rule) -> dict:
    """The plain lens beside a linear probe, of a model that answers wrong more often.

    Where nobody knows what a wrong model computed, this is agreement, and neither of the two is the truth.
    """
    lenses, questions = logit_lens(of_thoughts(model), model.spec.thoughts), table["question"].to_pylist()
    run = partial(_run, model, lenses)
    found = trace(model, run, rule, questions)
    fit = module.problems(2000, seed=9, split="train", p=rule.p)
    states = [collect(model, one["question"].to_pylist(), sites=("thought_out",)) for one in (fit, table)]
    right = np.array(found.seen.answers) == np.array(table["answer"].to_pylist())
    agree = {"right": [], "wrong": []}
    for p, column in ((2, "v1"), (4, "v2")):
        x, held = (batch[Place.at("thought_out", None, p)] for batch in states)
        words = discriminant(x, np.array(fit[column].to_pylist()), rule.p).shares(held).argmax(1).tolist()
        for i, own in enumerate(found.steps):
            for one in own:
                if one.value_at == p and one.step is not None and one.step.word is not None:
                    agree["right" if right[i] else "wrong"].append(one.step.word == str(words[i]))
    breaks = [
        first_break(found.joined(i), found.seen.answers[i], rule.asked(q), rule.wanted(q)) is not None
        for i, q in enumerate(questions)
    ]
    return {
        "accuracy": float(right.mean()),
        "read_by": {str(p): lens.kind for p, lens in _lenses(model, module, rule).at.items()},
        "agreement_with_a_probe": {
            kind: {"n": len(rows), "share": float(np.mean(rows)) if rows else None}
            for kind, rows in agree.items()
        },
        "departs_of_wrong": float(np.mean(np.array(breaks)[~right])) if not right.all() else None,
        "departs_of_right": float(np.mean(np.array(breaks)[right])) if right.any() else None,
    }


def _lenses(model, module, rule):
    """What reads each thought: as the stage chooses it on problems of the other splits."""
    fit, choosing = (
        module.problems(k, seed=9, split=split, p=rule.p)
        for k, split in ((800, "train"), (200, "validation"))
    )
    return choose(Material(model, of_thoughts(model), rule, fit, choosing))[0]


def _run(model, lenses, questions, hooks=(), states=False) -> Seen:
    return seen(model, lenses, questions, hooks, batch_size=256, max_new_tokens=8, states=states)


def _counts(steps, table) -> dict:
    gold = _gold(table)
    verified = [(i, one) for i, own in enumerate(steps) for one in own if one.label == VERIFIED]
    right = sum(
        one.number <= len(gold[i]) and gold[i][one.number - 1] == (one.step.operation, one.step.value)
        for i, one in verified
    )
    total = sum(map(len, gold))
    labels = {label: sum(one.label == label for own in steps for one in own) for label in LABELS}
    return {
        "steps": total,
        "labels": labels,
        "precision": right / len(verified) if verified else None,
        "recall": right / total,
        "verified": len(verified) / total,
    }


def _gold(table) -> list[list[tuple[str, str]]]:
    rows = table.to_pylist()
    return [[(row[f"op{k}"], str(row[f"v{k}"])) for k in range(1, row["n_steps"] + 1)] for row in rows]


def _errors(model, lenses, rule, table) -> dict:
    """By kind of error: problems that it broke, and how often the trace names its step."""
    questions, gold = table["question"].to_pylist(), table["answer"].to_pylist()
    steps = np.array(table["n_steps"])
    base = _run(model, lenses, questions)
    was_right = np.array(base.answers) == np.array(gold)
    kinds: dict[str, list] = {}
    for name, truth, run, upto, answers in _made(model, lenses, questions, base):
        for i in np.flatnonzero(was_right & (np.array(answers) != np.array(gold)) & (steps >= truth)):
            said, question = run.said(i)[:upto], questions[i]
            chain, asked = rule.join(question, said, answers[i]), rule.asked(question)
            named = first_break(chain, answers[i], asked)
            departs = first_break(chain, answers[i], asked, rule.wanted(question))
            kinds.setdefault(name, []).append((departs == truth, named == truth, truth == 1))
    whole = [row for rows in kinds.values() for row in rows]
    noise = [row for name, rows in kinds.items() if name.startswith("noise") for row in rows]
    shares = {name: _share(rows) for name, rows in kinds.items()}
    return shares | {"noise": _share(noise), "all": _share(whole)}


def _share(rows: list) -> dict:
    shares = np.array(rows).mean(0).round(4).tolist()
    return {"n": len(rows)} | dict(
        zip(("named", "named_by_values_alone", "always_first"), shares, strict=True)
    )


def _made(model, lenses, questions, base) -> Iterator[tuple[str, int, Seen, int, list[str]]]:
    """(kind, the step of the error, the run, thoughts that were thought, answers)."""
    inputs, last = collect(model, questions, sites=("thought_in",)), model.spec.n_thoughts
    for p in range(2, last + 1):
        z = inputs[Place.at("thought_in", None, p)]
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(p))
        noise *= z.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        place, truth = Place.at("thought_in", None, p), (p + 1) // 2
        for kind, rows, edit in (
            ("swap", z.roll(1, 0), lambda x, new: new[:, None].to(x)),
            ("noise", noise, lambda x, more: x + more[:, None].to(x)),
        ):
            run = _run(model, lenses, questions, [Hook(place, edit, rows)])
            yield f"{kind} z{p}", truth, run, last + 1, run.answers
    for k in range(last):
        said = thoughts.run(model, questions, n_thoughts=k, max_new_tokens=8).text
        yield f"exit {k}", k // 2 + 1, base, k + 1, [text.strip() for text in said]


if __name__ == "__main__":
    main()
