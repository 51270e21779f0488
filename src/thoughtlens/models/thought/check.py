"""A conformance test of `ThoughtModel`: whether a model keeps what every analysis here relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thoughtlens.core import ConfigError, Record, shortened
from thoughtlens.models.thought.places import INNER, SITES, Place
from thoughtlens.models.thought.sites import Hook, Tap, is_read
from thoughtlens.models.thought.thoughts import Answer, State, StepRecord, ThoughtModel

QUESTIONS = ("What is 7 + 8?", "Anna has 3 hens.", "How many eggs do 12 hens lay in 5 days?")
LOOSE, TIGHT = 5e-2, 1e-4
"""How far numbers may lie apart, relative to the largest: of 16-bit formats, of others."""
N_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class Fault(Record):
    """A promise that a model does not keep."""

    rule: str
    says: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.says}"


@dataclass(frozen=True)
class _Run:
    """All thoughts about some questions: states before each one and after the last, and the records."""

    states: list[State]
    records: list[StepRecord]

    def thoughts(self) -> Tensor:
        """`thought_in` and `thought_out` of all thoughts after each other."""
        return torch.stack([x for r in self.records for x in (r.thought_in, r.thought_out)])

    def last(self, problem: int | None = None) -> int:
        """The last thought of a problem; of the one that thinks longest."""
        had = [r.thought for r in self.records if _had(r)[slice(None) if problem is None else problem].any()]
        return had[-1]


@torch.no_grad()
def check_thought_model(model: ThoughtModel, questions: Sequence[str] = QUESTIONS) -> list[Fault]:
    """What is wrong with a thought model, one line each; none: every analysis may rely on it.

    Args:
        model: Of any family.
        questions: At least two, of different lengths, that the model can read.

    Raises:
        ConfigError: too few questions.

    Example:
        ```python
        questions = ["ann +3 *5 -2 ann 7 once", "dan *22 *4 *3 ann +6 -11 +21 eve *5 +10 *16 eve 11 thrice"]
        print(*tl.models.check_thought_model(tl.load_model("codi-tiny"), questions), sep="\\n")
        ```
    """
    questions = list(questions)
    if len(set(questions)) < 2 or len({len(question) for question in questions}) < 2:
        raise ConfigError("Expected at least two questions, of different lengths")
    faults: list[Fault] = []
    for rule, (check, _) in RULES.items():
        try:
            for line in check(model, questions):
                faults.append(Fault(rule=rule, says=line))
        except Exception as error:  # foreign code can fail in any way: that is what is asked
            said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            faults.append(Fault(rule=rule, says=shortened(said)))
        if faults and rule == "loop":
            break  # nothing behind it can be asked
    return faults


def _spec(model: ThoughtModel, _: list[str]) -> Iterator[str]:
    spec = model.spec
    if wrong := [site for site in spec.sites if site not in (*SITES, *INNER)]:
        yield f"spec.sites has {', '.join(wrong)}; there are {', '.join((*SITES, *INNER))}"
    if missing := [site for site in SITES[:3] if site not in spec.sites]:
        yield f"spec.sites lacks {', '.join(missing)}, which every family has"
    if not 1 <= spec.feedback_layer <= spec.n_layers:
        yield f"spec.feedback_layer is {spec.feedback_layer}; expected 1..{spec.n_layers}, a number of blocks"
    if model.digest is None:
        yield "digest is None: stores cannot tell its weights from others; set it to a sha256 of the weights"
    if getattr(model, "config_hash", None) is None:
        yield "config_hash is not set: set it to a digest of everything that decides thoughts and answers"


def _loop(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    state, n = model.encode(questions), len(questions)
    if state.next_thought != 0:
        yield f"encode gives next_thought {state.next_thought}; the first step is thought 0"
    if state.rows.tolist() != list(range(n)):
        yield f"encode gives rows {state.rows.tolist()}; expected one per question, 0..{n - 1}"
    if state.mask.dtype != torch.bool:
        yield f"encode gives a mask of {state.mask.dtype}; expected torch.bool, True at real tokens"
    for p in model.spec.thoughts:
        state, _ = model.step(state)
        said = model.answer(state, 1)
        if len(said.text) != n:
            yield f"answer after thought {p} gives {len(said.text)} texts for {n} questions"
            return
    if state.next_thought != model.spec.n_thoughts + 1:
        yield f"after {model.spec.n_thoughts + 1} steps next_thought is {state.next_thought}"


def _shapes(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    run, spec, n = _think(model, questions), model.spec, len(questions)
    start = run.states[0]
    positions = start.mask.shape[1] if spec.positions_per_thought is None else spec.positions_per_thought
    wanted = (n, positions, spec.d)
    if start.mask.dtype != torch.bool or start.mask.ndim != 2 or len(start.mask) != n:
        yield f"encode's mask is {_shape(start.mask)} {start.mask.dtype}; expected bool [batch, positions]"
    for record in run.records[:2]:
        shown = {"thought_in": record.thought_in, "thought_out": record.thought_out}
        shown |= {f"layers.{i}:out": x for i, x in enumerate(record.resid)}
        yield from (
            f"{name}@{record.thought} is {_shape(x)}; expected [batch, positions, d] = {_said(wanted)}"
            for name, x in shown.items()
            if tuple(x.shape) != wanted
        )
    said = model.answer(run.states[-1], 0)
    if said.logits.ndim != 3 or said.logits.shape[:2] != (n, 1):
        yield f"answer(state, 0).logits is {_shape(said.logits)}; expected [batch, 1, vocab], batch = {n}"
        return
    for site in ("resid", "thought_out"):
        read = model.readout(run.records[0].thought_out, site)
        if tuple(read.shape) != (*wanted[:2], said.logits.shape[2]):
            yield f"readout at {site} is {_shape(read)}; expected [batch, positions, vocab]"
    if "kv" in spec.sites:
        yield from _kv_shapes(run.records[0], n, positions, spec.n_layers)


def _kv_shapes(record: StepRecord, n: int, positions: int, n_layers: int) -> Iterator[str]:
    for layer in range(n_layers):
        for name, x in zip(("key", "value"), record.kv(layer), strict=True):
            if x.ndim != 4 or (x.shape[0], x.shape[2]) != (n, positions):
                yield (
                    f"layers.{layer}:kv {name} is {_shape(x)}; expected [batch, heads, positions, d_head], "
                    f"batch = {n}, positions = {positions}"
                )


def _dtype(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    run = _think(model, questions)
    said = model.answer(run.states[-1], 0)
    kinds = {x.dtype for r in run.records for x in (r.thought_in, *r.resid, r.thought_out)}
    if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds):
        yield f"sites are in {', '.join(sorted(map(str, kinds)))}; expected one floating-point format"
    for record in run.records:
        real = _real(model, run.states[0], record.thought_in)
        real = real & _had(record).to(real.device)[:, None]
        for name, x in (("thought_in", record.thought_in), ("thought_out", record.thought_out)):
            if not bool(x[real].isfinite().all()):
                yield f"{name}@{record.thought} has values that are not finite"
                return
    if not said.logits.is_floating_point() or not bool(said.logits.isfinite().all()):
        yield "the answer's logits are not finite floating-point numbers"


def _determinism(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    once = _think(model, questions)
    _think(model, questions[::-1])
    again = _think(model, questions)
    if _far(once.thoughts(), again.thoughts()):
        yield (
            "the same questions give other thoughts the second time: dropout (call eval()), random starts, "
            "or something that the model keeps from one call to the next"
        )
    elif _answers(model, once) != _answers(model, again):
        yield "the same thoughts give another answer the second time; answers are greedy"


def _padding(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    together = _think(model, questions)
    said = model.answer(together.states[-1], N_TOKENS)
    for i, question in enumerate(questions):
        alone = _think(model, [question])
        for record, own in zip(together.records, alone.records, strict=True):
            real = _real(model, together.states[0], record.thought_in)[i]
            own_real = _real(model, alone.states[0], own.thought_in)[0]
            for name in ("thought_in", "thought_out"):
                a, b = getattr(record, name)[i][real], getattr(own, name)[0][own_real]
                if _far(a, b):
                    yield (
                        f"{name}@{record.thought} of {question!r} is another in a batch than alone: "
                        f"padding is seen, positions count it, or rows of a batch act on each other"
                    )
                    return
        own_said = model.answer(alone.states[-1], N_TOKENS)
        if _far(said.logits[i, :1], own_said.logits[0, :1]) or said.ids[i] != own_said.ids[0]:
            yield f"the answer to {question!r} is another in a batch of {len(questions)} than alone"
            return


def _clone(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    run = _think(model, questions)
    for p in sorted({0, model.spec.n_thoughts}):
        state, record = run.states[p], run.records[p]
        model.step(model.clone(state), [_shift(Place("thought_in", p))])
        model.answer(state, 1)
        _, again = model.step(state)
        if _far(record.thought_out, again.thought_out):
            yield (
                f"a step, or an answer, from thought {p} changes the state that it begins from: a clone "
                f"shares tensors, so write no tensor in place, and keep nothing in the model itself"
            )
            return
    end = run.states[-1]
    once = model.answer(end, N_TOKENS)
    if once.ids != model.answer(end, N_TOKENS).ids:
        yield "answer changes the state it is given"


def _hooks(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    """At every site that is read: an edit acts on what follows, and on its own problem only."""
    spec, clean = model.spec, _think(model, questions)
    last = clean.last(0)
    blocks = [("resid", layer) for layer in range(spec.n_layers)]
    for site, layer in [("thought_in", None), *blocks, ("thought_out", None)]:
        goes_on = site == "thought_out" and spec.feeds_back and not spec.reads_last
        place = Place.at(site, layer, min(1, last - goes_on))
        if place.thought != -1 and is_read(spec, place):
            yield from _one_hook(model, questions, clean, place)


def _one_hook(model: ThoughtModel, questions: list[str], clean: _Run, place: Place) -> Iterator[str]:
    p = place.thought
    assert p is not None
    kept = _think(model, questions, [Hook(place, lambda x: x.clone())])
    if _far(kept.thoughts(), clean.thoughts()):
        yield f"{place}: putting back what was read changes the thoughts: the tap is given something else"
        return
    edited = _think(model, questions, [_first_only(place, len(questions))])
    before, after = (clean.thoughts()[: 2 * p], edited.thoughts()[: 2 * p])
    if _far(before, after):
        yield f"{place}: an edit changes thoughts before it"
    changed = _behind(model, edited, place), _behind(model, clean, place)
    if not _far(changed[0][:1], changed[1][:1]):
        yield f"{place}: an edit changes nothing that follows: go on with what the tap returns"
    if _far(changed[0][1:], changed[1][1:]):
        yield f"{place}: an edit of one problem changes another of the batch"


def _behind(model: ThoughtModel, run: _Run, place: Place) -> Tensor:
    """What an edit at a place must reach: [problem, anything]."""
    p = place.thought
    assert p is not None
    if place.site == "thought_out" and p < model.spec.n_thoughts:
        found = run.records[p + 1].thought_in
    elif place.site != "thought_out" and model.spec.feedback_layer > (place.layer or 0):
        found = run.records[p].thought_out
    else:
        found = model.answer(run.states[-1], 0).logits
    return found.flatten(1)


def _kv(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    if "kv" not in model.spec.sites:
        return
    run = _think(model, questions)
    clean = model.answer(run.states[-1], 0).logits
    for layer in range(model.spec.n_layers):
        place = Place.at("kv", layer, run.last())
        hook = Hook(place, lambda kv: (kv[0].flip(-1) + 1, 1 - 2 * kv[1]))
        edited = model.answer(_think(model, questions, [hook]).states[-1], 0).logits
        if not _far(clean, edited):
            yield f"{place}: an edit changes no answer: _write_kv must write where later positions read"


def _ends(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    """What `reads_last` and `feeds_back` say of edits that nothing should read."""
    spec, clean = model.spec, _think(model, questions)
    last = clean.last()
    tap = Tap([_shift(Place("thought_out", last))], clean.states[last].rows)
    after = replace(model._step(model.clone(clean.states[last]), tap), next_thought=last + 1)
    moved = _far(model.answer(after, 0).logits, model.answer(clean.states[last + 1], 0).logits)
    if moved != spec.reads_last:
        does = "reads" if moved else "does not read"
        yield f"the answer {does} the last thought_out, and spec.reads_last is {spec.reads_last}"
    if last == 0:
        return
    tap = Tap([_shift(Place("thought_out", 0))], clean.states[0].rows)
    after = replace(model._step(model.clone(clean.states[0]), tap), next_thought=1)
    moved = _far(model.step(after)[1].thought_in, clean.records[1].thought_in)
    if moved != spec.feeds_back:
        does = "is" if moved else "is not"
        yield f"the next thought_in {does} made of thought_out, and spec.feeds_back is {spec.feeds_back}"


def _stops(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    """A problem that has stopped stays so, says nothing more, and is beyond the reach of edits."""
    clean = _think(model, questions)
    had = torch.stack([_had(record) for record in clean.records])
    if not model.spec.varies:
        if not had.all():
            yield "a problem stops before the last thought, and spec.varies is False"
        return
    if not had[0].all():
        yield "a problem does not have thought 0, the begin-of-thought position, which every problem has"
        return
    if (had[1:] & ~had[:-1]).any():
        yield "a problem that had stopped thinks again"
    for i in range(len(questions)):
        last = clean.last(i)
        if last == model.spec.n_thoughts:
            continue
        edited = _think(model, questions, [_shift(Place("thought_in", last + 1))])
        ends = (clean.states[last + 1], clean.states[-1], edited.states[-1])
        there, later, beyond = (model.answer(state, 0).logits[i] for state in ends)
        if _far(there, later):
            yield f"{questions[i]!r} stops after thought {last}, and later thoughts change its answer"
        if _far(later, beyond):
            yield f"{questions[i]!r} stops after thought {last}, and an edit of the next changes its answer"


def _cue(model: ThoughtModel, questions: list[str]) -> Iterator[str]:
    """Greedy decoding, and what a forced cue does."""
    end = _think(model, questions).states[-1]
    none, said = model.answer(end, 0), model.answer(end, N_TOKENS)
    if any(none.ids):
        yield "answer(state, 0) writes tokens; expected logits only"
    if _far(none.logits[:, :1], said.logits[:, :1]):
        yield "the first logits depend on max_new_tokens"
    n = len(questions)
    if not len(said.text) == len(said.ids) == len(said.value) == n:
        yield f"an answer has not one text, one list of ids and one value for each of {n} questions"
        return
    ids = sorted({i for row in said.ids for i in row})
    words = model.words(ids)
    if words is not None and not set(ids) <= words.keys():
        yield "words gives no text for some of the tokens of an answer"
    forced = model.answer(end, 0, none.logits[:, -1].argmax(-1, keepdim=True))
    if forced.logits.shape[1] != none.logits.shape[1] + 1:
        yield f"logits after one forced token are {_shape(forced.logits)}; expected one position more"
    elif _far(forced.logits[:, :1], none.logits[:, :1]):
        yield "a forced token changes the logits before it"


RULES: dict[str, tuple[Callable[[ThoughtModel, list[str]], Iterator[str]], str]] = {
    "spec": (_spec, "the shape says what is there; weights and settings have digests"),
    "loop": (_loop, "thoughts 0..n_thoughts, an answer after each"),
    "shapes": (_shapes, "states, logits, keys and values have the shapes that the spec says"),
    "dtype": (_dtype, "one floating-point format, finite numbers"),
    "determinism": (_determinism, "the same questions give the same thoughts and answers"),
    "padding": (_padding, "a question in a batch is thought about as it is alone"),
    "clone": (_clone, "a state stays as it is when something goes on from it"),
    "hooks": (_hooks, "an edit acts on what follows, on its own problem, and not before"),
    "kv": (_kv, "keys and values that are edited are those that the answer reads"),
    "ends": (_ends, "reads_last and feeds_back are as the model does"),
    "stops": (_stops, "a problem that stops early stays as it is then"),
    "answer": (_cue, "answers are greedy, and a forced cue is followed"),
}
"""Rule -> its check, and what holds where it finds nothing."""

CHECKED = {rule: says for rule, (_, says) in RULES.items()}
"""Rule -> what holds where its check finds nothing."""


def _think(model: ThoughtModel, questions: list[str], hooks: Sequence[Hook] = ()) -> _Run:
    states, records = [model.encode(questions)], []
    for _ in model.spec.thoughts:
        state, record = model.step(states[-1], hooks)
        states.append(state)
        records.append(record)
    return _Run(states, records)


def _answers(model: ThoughtModel, run: _Run) -> list[list[int]]:
    said: Answer = model.answer(run.states[-1], N_TOKENS)
    return said.ids


def _real(model: ThoughtModel, start: State, x: Tensor) -> Tensor:
    """Which positions of a thought are real, [batch, positions]."""
    if model.spec.positions_per_thought is None:
        return start.mask
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def _had(record: StepRecord) -> Tensor:
    """Which problems had this thought, [batch]."""
    if record.thinking is None:
        return torch.ones(len(record.thought_in), dtype=torch.bool)
    return record.thinking.cpu()


def _change(x: Tensor) -> Tensor:
    """Another state of a like size, not along what a norm removes."""
    return 1.5 * x.flip(-1) + 0.5


def _shift(place: Place) -> Hook:
    return Hook(place, _change)


def _first_only(place: Place, n: int) -> Hook:
    """Changes the first problem's state, and leaves the others'."""
    first = torch.zeros(n, dtype=torch.bool)
    first[0] = True
    return Hook(place, lambda x, own: torch.where(own.view(-1, 1, 1), _change(x), x), per_problem=first)


def _far(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by more than their number format explains."""
    if a.shape != b.shape:
        return True
    if not a.numel():
        return False
    if (a.isnan() != b.isnan()).any():
        return True
    loose = min(torch.finfo(x.dtype).bits for x in (a, b)) <= 16
    a, b = a.double().nan_to_num(0.0), b.double().nan_to_num(0.0)
    return bool((a - b).abs().max() > (LOOSE if loose else TIGHT) * (1e-3 + a.abs().max()))


def _shape(x: Tensor) -> str:
    return _said(tuple(x.shape))


def _said(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
