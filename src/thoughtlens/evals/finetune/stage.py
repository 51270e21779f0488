"""Is an SAE better for the model that it stands in, once it is trained a little on what the model loses?

The SAE is trained further end to end, its reconstruction in the model's place, and beside it the same SAE as
many steps on the same rows by squared error alone: what the first has more of is the objective's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thoughtlens.acts import ActivationStore, StoreSize, made_with
from thoughtlens.core import (
    ConfigError,
    MismatchError,
    NotThereError,
    Plan,
    Result,
    choose_device,
    digest,
    run_stage,
    warn,
)
from thoughtlens.evals.finetune.config import FinetuneConfig
from thoughtlens.evals.finetune.judging import ALIKE, POINTS, judge
from thoughtlens.evals.finetune.lessons import TextLessons, ThoughtLessons
from thoughtlens.evals.finetune.records import (
    ARMS,
    BEFORE,
    FINETUNED,
    RIVAL,
    FinetuneGain,
    FinetuneOutcome,
)
from thoughtlens.evals.finetune.training import Trained, train_both
from thoughtlens.evals.heldout.fidelity import Splicer
from thoughtlens.evals.heldout.subject import Subject, check_store, objections
from thoughtlens.evals.heldout.thoughts import UNREAD, ThoughtSplicer
from thoughtlens.evals.heldout.windows import BATCH_TOKENS, held_out_text
from thoughtlens.latents import pick
from thoughtlens.numerics import too_narrow
from thoughtlens.sae import SAE, SAESize, differences, fit_normalization, load_members, save

MEAN_ROWS, SAMPLE_ROWS = 20_000, 16_384
UNTRAINED = {
    "imported": "its rule is another library's, and no loss of it is known here",
    "supervised": "it is trained on labels",
}
"""Kinds that cannot be trained further here, and why."""
LOSES = {
    "better": "less than",
    "worse": "more than",
    "equivalent": f"as much (within {ALIKE:.0%}) as",
    "inconclusive": "perhaps less, perhaps more than",
}
WHY = {
    ("better", "better"): ": more training alone gains less",
    ("better", "equivalent"): ": as much training on squared error gains the same",
}
DEFINITIONS = {
    "kl": "KL(untouched || spliced), nats: of texts mean over predicted tokens, of thoughts of the answer's "
    "first token, all the SAE's places replaced at once, mean over problems",
    "delta_ce": "cross-entropy with x replaced minus the untouched model's, nats per predicted token",
    "accuracy": "right answers with x replaced at all the SAE's places, share of the problems",
    "gains": "how much less the finetuned SAE loses than the other, paired by document or problem, or how "
    f"many more answers are right; equivalent within {ALIKE:.0%} of what was lost before (of accuracy: "
    f"{POINTS}); p_holm: Holm over the two comparisons of a measure; intervals: 95 %, whole groups",
    "squared_error": "the same SAE trained as many steps on the same rows, with the same learning rate, by "
    "its own loss alone",
    "kl_first, kl_last": "training divergence, mean over the first and over the last tenth of the steps",
    "costs": "seconds of the steps themselves; of the finetuned SAE with the passes of the model, whose "
    "untouched pass gives the vectors that both are trained on",
}


def plan(cfg: FinetuneConfig) -> Plan:
    """Rows, memory and time of the stage; zeros where its inputs do not exist yet."""
    store = StoreSize.of(cfg.acts)
    sizes = [] if store is None else list(SAESize.all_of(cfg.sae))
    if store is None or not sizes:
        return Plan(rows=0, memory_bytes=0.0, disk_bytes=0.0, seconds=0.0)
    text = store.kind == "text"
    largest = max(sizes, key=lambda one: one.d_sae * one.d_in)
    weights = 8.0 * largest.d_sae * largest.d_in
    rows = cfg.steps * (BATCH_TOKENS if text else cfg.batch_problems * max(1, len(store.thoughts)))
    passes = 4 * rows + 5 * cfg.ce_tokens if text else 0
    return Plan(
        rows=rows,
        memory_bytes=1e9 + 10 * weights + (5e9 if text else 0),
        disk_bytes=weights,
        seconds=5 + passes / 1500 + rows * 20.0 * largest.d_sae * largest.d_in / 2e10,
    )


def finetune(cfg: FinetuneConfig, out: str | Path) -> Result:
    """Write the finetuned SAE and the result.

    Raises:
        NotThereError: no such store, SAE or model.
        ConfigError: an SAE of a kind that cannot be trained further, or of several hooks of a text model.
        MismatchError: an SAE of another model or store, or a model that is not the store's.
        DataError: no text or problems to train on, or to judge on.
    """
    inputs = {"acts": Path(cfg.acts), "sae": Path(cfg.sae)}
    job = None if Path(out).exists() else _prepare(cfg)  # refusals leave nothing behind
    return run_stage("finetune", cfg, out, lambda tmp: _work(cfg, job or _prepare(cfg), tmp), inputs=inputs)


@dataclass(frozen=True)
class _Job:
    subject: Subject
    splicer: Splicer | ThoughtSplicer
    lessons: TextLessons | ThoughtLessons
    warnings: list[str]


def _prepare(cfg: FinetuneConfig) -> _Job:
    """Open everything, and refuse what cannot be trained further or judged."""
    store = ActivationStore.open(cfg.acts)
    members = load_members(cfg.sae, device=str(choose_device(cfg.device)), joined=True, hooks=store.meta.d_in)
    name, sae = pick(members, cfg.member)
    _require_trainable(cfg, store, name, sae)
    subject = Subject(store, name, sae, cfg.split)
    warnings = [
        *differences({name: sae}, store),
        *check_store(digest(cfg.acts), store.meta.reading, sae, name, force=False),
        *(f"{name}: {text}" for text in objections(subject)),
    ]
    if store.meta.kind == "text":
        return _Job(subject, *_of_text(cfg, subject), warnings)
    return _Job(subject, *_of_thoughts(cfg, subject), warnings)


def _require_trainable(cfg: FinetuneConfig, store: ActivationStore, name: str, sae: SAE) -> None:
    """Raise ConfigError unless the SAE's encoder and loss can be trained further, in one vector's place."""
    if not sae.reconstructs:
        raise ConfigError(
            f"{name} is a {sae.kind}, whose output does not stand for the one vector that it reads: nothing "
            f"can be put in its place; finetune an SAE that reconstructs its input"
        )
    if why := UNTRAINED.get(sae.kind):
        raise ConfigError(f"{name} is a {sae.kind} SAE, which cannot be trained further: {why}")
    if store.meta.kind == "text" and len(sae.hook_names) > 1:
        raise ConfigError(
            f"{name} reads several hooks ({', '.join(sae.hook_names)}), and one is put in the model's place "
            f"at a time; train one SAE per hook, train.members=per_layer, and name one: finetune.member=NAME"
        )
    if cfg.split == (sae.provenance.get("split") or "train"):
        raise ConfigError(f"finetune.split={cfg.split} is what {name} was trained on; judge on another split")


def _of_text(cfg: FinetuneConfig, subject: Subject) -> tuple[Splicer, TextLessons]:
    splicer = Splicer(
        subject.store,
        model=cfg.model,
        split=cfg.split,
        ce_tokens=cfg.ce_tokens,
        mean_rows=MEAN_ROWS,
        seed=cfg.seed,
    )
    assert splicer.lm is not None, "a store of text, and tokens to judge"
    windows = held_out_text(
        subject.store,
        subject.train_split,
        splicer.lm,
        drop_outliers=subject.drops_outliers,
        n_tokens=cfg.steps * BATCH_TOKENS,
        seed=cfg.seed,
    )
    return splicer, TextLessons(splicer.lm, subject.sae.hook_names[0], windows)


def _of_thoughts(cfg: FinetuneConfig, subject: Subject) -> tuple[ThoughtSplicer, ThoughtLessons]:
    store, split = subject.store, subject.train_split
    splicer = ThoughtSplicer(store, model=cfg.model, split=cfg.split, n=cfg.answer_problems, seed=cfg.seed)
    if splicer.skipped is not None:
        raise NotThereError(
            f"An SAE is finetuned with its model, and judged on other problems: {splicer.skipped}"
        )
    places = splicer.places(subject)
    if not places:
        raise MismatchError(f"{subject.label}: {UNREAD}; finetune one of other places")
    lines = np.flatnonzero(np.array(store.problems["split"].to_pylist(), object) == split)
    lines = np.random.default_rng((cfg.seed, 3)).permutation(lines)[: cfg.steps * cfg.batch_problems]
    asked = store.problems["question"].take(lines).to_pylist()
    batches = [asked[i : i + cfg.batch_problems] for i in range(0, len(asked), cfg.batch_problems)]
    return splicer, ThoughtLessons(splicer.model, places, batches, made_with(store).max_new_tokens)


def _work(cfg: FinetuneConfig, job: _Job, tmp: Path) -> FinetuneOutcome:
    for line in job.warnings:
        warn(line)
    subject, sae = job.subject, job.subject.sae
    lr = cfg.lr or sae.cfg.default_lr(sae.d_sae)
    start = _in_units(subject, cfg.seed)
    found = train_both(start, job.lessons, steps=cfg.steps, mse=cfg.mse, lr=lr, seed=cfg.seed)
    for one in (found.finetuned, found.rival):
        one.fold()
    _save(cfg, subject, found, lr, tmp)
    saes = {BEFORE: sae, FINETUNED: found.finetuned, RIVAL: found.rival}
    judged = judge(subject, job.splicer, saes)
    doubts = [(f"beside {ARMS[g.rival]}, {g.measure}:", g.doubt) for g in judged.gains]
    tenth = max(1, cfg.steps // 10)
    return FinetuneOutcome(
        member=subject.label,
        kind=sae.kind,
        hook_names=list(sae.hook_names),
        thoughts=subject.thoughts,
        d_sae=sae.d_sae,
        split=cfg.split,
        train_split=subject.train_split,
        steps=cfg.steps,
        lr=lr,
        mse=cfg.mse,
        kl_first=float(np.mean(found.kl[:tenth])),
        kl_last=float(np.mean(found.kl[-tenth:])),
        arms=judged.arms,
        gains=judged.gains,
        costs=found.costs,
        conclusion=_conclusion(judged.gains),
        headline={f"finetune_{g.measure}_{g.rival}": g.difference for g in judged.gains},
        definitions=DEFINITIONS,
        warnings=job.warnings + too_narrow("gains", doubts),
    )


@torch.no_grad()
def _in_units(subject: Subject, seed: int) -> SAE:
    """The SAE in normalised units where it was trained in such, as its penalties want it."""
    sae = subject.sae
    mode = sae.normalization_mode(subject.cells)
    if sae.normalization is None and mode in ("global", "mean"):
        sample = subject.training_source().sample(SAMPLE_ROWS, seed).x.to(sae.W_enc)
        sae = copy.deepcopy(sae)
        sae.unfold(fit_normalization(sample, mode))
    return sae


def _save(cfg: FinetuneConfig, subject: Subject, found: Trained, lr: float, tmp: Path) -> None:
    """The finetuned SAE under its own name, with what made it."""
    cost = found.costs[0]
    said = {"steps": cfg.steps, "lr": lr, "mse": cfg.mse, "seed": cfg.seed, "rows": cost.rows}
    before = subject.sae.provenance
    seen = before.get("rows_seen")
    more = {} if seen is None else {"rows_seen": int(seen) + cost.rows}
    found.finetuned.provenance = {**before, **more, "finetune": said}
    save(found.finetuned, tmp / subject.label)


def _conclusion(gains: Sequence[FinetuneGain]) -> str:
    """What the objective bought, by the divergence."""
    verdicts = {g.rival: g.difference.verdict or "inconclusive" for g in gains if g.measure == "kl"}
    why = WHY.get((verdicts[BEFORE], verdicts[RIVAL]), "")
    return (
        f"With the finetuned SAE in its place the model loses {LOSES[verdicts[BEFORE]]} with the SAE as it "
        f"was, and {LOSES[verdicts[RIVAL]]} with the SAE trained as many steps on squared error alone{why}."
    )
