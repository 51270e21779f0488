"""The codi-tiny family as a thought model, and the weights that ship with the package.

A model directory holds `config.json` (`schema`, `family`, `config`, `training`) and
`model.safetensors`. The thought index is that of docs/thoughts.md: 0 is the begin-of-thought
position, 1..6 the thoughts. In a control without feedback the thoughts are pause tokens, or there is
the begin-of-thought position only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thoughtlens.core import (
    CheckpointError,
    ConfigError,
    DataError,
    HookError,
    NotThereError,
    choose_device,
    validate_config,
    whole,
)
from thoughtlens.models.thought.places import INNER, SITES
from thoughtlens.models.thought.sites import Outside, Watch
from thoughtlens.models.thought.thoughts import (
    Answer,
    State,
    Tap,
    ThoughtModel,
    ThoughtSpec,
    Written,
    parse_number,
)
from thoughtlens.models.thought.tiny_decoder import (
    ANS,
    BOT,
    COT,
    EOT,
    PAD,
    SPECIALS,
    Cache,
    TinyConfig,
    TinyDecoder,
    WordTokenizer,
)
from thoughtlens.problems import GeneratedConfig, ProblemsConfig

P = TypeVar("P", bound=ProblemsConfig)
SCHEMA = 1
SHIPPED = "weights"
THOUGHTS = "thoughts"
CUE = (EOT, ANS)


class TinyThoughts(ThoughtModel):
    """A `TinyDecoder` behind the one interface; answers are a single token."""

    def __init__(self, decoder: TinyDecoder, name: str, digest: str) -> None:
        self.decoder, self.name, self.digest = decoder.eval().requires_grad_(False), name, digest
        dtype = str(decoder.embed.weight.dtype)
        self.config_hash = hashlib.sha256(f"{digest} {dtype}".encode()).hexdigest()
        self.tokenizer_digest = hashlib.sha256("\n".join(decoder.cfg.vocabulary).encode()).hexdigest()
        self.cfg = decoder.cfg
        self.tokenizer = WordTokenizer(self.cfg.vocabulary)
        self.d_head = self.cfg.d_in // self.cfg.n_heads
        feedback = self.cfg.mode == "thoughts"
        self.spec = ThoughtSpec(
            n_thoughts=0 if self.cfg.mode == "none" else self.cfg.n_thoughts,
            n_layers=self.cfg.n_layers,
            n_cue=len(CUE),
            sites=(*SITES, *INNER),
            d=self.cfg.d_in,
            feedback_layer=self.cfg.n_layers,
            has_projection=feedback,
            feeds_back=feedback,
        )

    @property
    def modulus(self) -> int:
        """p of the arithmetic that the model was trained on: the numbers it knows."""
        return sum(word.isdigit() for word in self.cfg.words)

    def words(self, ids: Sequence[int]) -> dict[int, str]:
        """The vocabulary's own words."""
        return {i: self.tokenizer.vocabulary[i] for i in ids}

    def encode(self, questions: Sequence[str], outside: Outside | None = None) -> State:
        """Run the questions, right-aligned, up to the begin-of-thought position."""
        cfg, device = self.cfg, self.decoder.embed.weight.device
        if not questions:
            raise DataError("Expected at least one question, got none")
        encoded = [self._encode(text) for text in questions]
        length = max(len(ids) for ids in encoded)
        ids = torch.tensor([[PAD] * (length - len(row)) + row for row in encoded], device=device)
        padding = ids == PAD if bool((ids == PAD).any()) else None
        through = None if outside is None else outside.over(-length, ids != PAD)
        start = cfg.question_len - length
        _, cache = self._run(self.decoder.embed(ids), start, Cache([], []), padding, through)
        begin = self.decoder.embed.weight[BOT].expand(len(ids), 1, -1)
        return State(
            cache=cache,
            mask=ids != PAD,
            positions=torch.full((len(ids),), cfg.question_len, device=device),
            pending=begin,
            next_thought=0,
            rows=torch.arange(len(ids)),
        )

    def _run(
        self,
        x: Float[Tensor, "batch new d"],
        start: int,
        cache: Cache,
        padding: Tensor | None,
        through: Callable[..., Tensor] | None,
    ) -> tuple[Float[Tensor, "batch new d"], Cache]:
        """Embedded tokens from a position on, and what they go through; the last states."""
        x = x if through is None else through("thought_in", x)
        x = x + self.decoder.pos.weight[start : start + x.shape[1]]
        states, cache = self.decoder(x, cache, padding, edit=through)
        return states[-1] if through is None else through("thought_out", states[-1]), cache

    @contextmanager
    def attending(self, watch: Watch) -> Iterator[None]:
        """See `ThoughtModel.attending`."""
        self.decoder.watch = watch
        try:
            yield
        finally:
            self.decoder.watch = None

    def read_ids(self, question: str) -> list[int]:
        """See `ThoughtModel.read_ids`."""
        return self._encode(question)

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        if not 0 < len(ids) <= self.cfg.question_len:
            raise DataError(
                f"Expected a question of 1..{self.cfg.question_len} words, got {len(ids)}: {text[:80]!r}"
            )
        return ids

    def _step(self, state: State, tap: Tap) -> State:
        decoder, p = self.decoder, state.next_thought
        z = tap("thought_in", state.pending)
        x = z + decoder.pos.weight[self.cfg.question_len + p]
        states, cache = decoder(x, state.cache, edit=tap)
        out = tap("thought_out", states[-1])
        mask = torch.cat([state.mask, state.mask.new_ones(len(x), 1)], 1)
        pending = self._feedback(out, p)
        return replace(state, cache=cache, mask=mask, positions=state.positions + 1, pending=pending)

    def _feedback(self, out: Float[Tensor, "batch 1 d"], p: int) -> Float[Tensor, "batch 1 d"]:
        if self.cfg.mode == "pause" and p < self.cfg.n_thoughts:
            return self.decoder.embed.weight[len(SPECIALS) + p].expand(len(out), 1, -1)
        return self.decoder.prj(out)

    def answer(
        self, state: State, max_new_tokens: int = 256, teacher_ids: Int[Tensor, "*batch tokens"] | None = None
    ) -> Answer:
        """End of thought, answer cue, then one token; `<eot> <ans>` keep their trained positions."""
        cfg, rows = self.cfg, len(state.pending)
        cues = torch.tensor(CUE, device=state.pending.device).expand(rows, -1)
        if teacher_ids is not None:
            cues = torch.cat([cues, teacher_ids.to(cues).expand(rows, -1)], 1)
        start = cfg.question_len + 1 + cfg.n_thoughts
        if start + cues.shape[1] > cfg.n_positions:
            raise DataError(
                f"Expected a cue of at most {cfg.n_positions - start - 2} tokens, got {cues.shape[1] - 2}"
            )
        cache = state.cache
        if cfg.bottleneck:
            cache = cache.without(state.mask.shape[1] - state.next_thought + 1)
        through = None
        if state.outside is not None:
            through = state.outside.over(
                self.spec.n_thoughts + 1, torch.ones_like(cues[:, : len(CUE)], dtype=torch.bool)
            )
        h, _ = self._run(self.decoder.embed(cues), start, cache, None, through)
        logits = self.decoder.unembed(h[:, len(CUE) - 1 :])
        ids = [[int(i)] for i in logits[:, -1].argmax(-1)] if max_new_tokens else [[] for _ in range(rows)]
        text = [self.tokenizer.decode(row) for row in ids]
        return Answer(text=text, ids=ids, logits=logits, value=[parse_number(t) for t in text])

    @property
    def modes(self) -> tuple[str, ...]:
        """See `ThoughtModel.modes`: the teacher of its training writes its chain of thought."""
        return ("words",)

    def _write(self, mode: str, questions: Sequence[str], max_new_tokens: int) -> Written:
        text = [said.split()[-1] if said else "" for said in self.write(questions)]
        return Written(text, [parse_number(one) for one in text])

    @torch.no_grad()
    def write(self, questions: Sequence[str]) -> list[str]:
        """The teacher's text, greedily: the chain of thought, then the answer as last word.

        A chain that has not come to the answer cue within the model's positions ends without one.
        """
        state = self.encode(questions)
        written = torch.full((len(questions), 1), COT, device=state.pending.device)
        cache = state.cache
        for position in range(self.cfg.question_len, self.cfg.n_positions):
            states, cache = self.decoder(self.decoder.inputs(written[:, -1:], position), cache)
            written = torch.cat([written, self.decoder.unembed(states[-1]).argmax(-1)], 1)
        return [self._until_answer(row) for row in written[:, 2:].tolist()]

    def _until_answer(self, ids: list[int]) -> str:
        end = ids.index(ANS) if ANS in ids[:-1] else len(ids)
        return self.tokenizer.decode([i for i in ids[: end + 2] if i >= self.cfg.word_offset])

    def readout(self, h: Float[Tensor, "*batch d"], site: str) -> Float[Tensor, "*batch vocab"]:
        """Logit lens; `resid` still lacks the final norm, `thought_out` has it."""
        if site not in ("resid", "thought_out"):
            raise HookError(f"Expected site resid or thought_out to read out, got {site!r}")
        h = h.to(self.decoder.embed.weight)
        return self.decoder.unembed(self.decoder.ln_f(h) if site == "resid" else h)

    def _memory(self, state: State, layer: int) -> tuple[Tensor, Tensor]:
        return state.cache.keys[layer], state.cache.values[layer]

    def _remember(self, state: State, layer: int, k: Tensor, v: Tensor) -> None:
        state.cache.keys[layer], state.cache.values[layer] = k, v


def load(
    name: str | Path = "codi-tiny",
    *,
    seed: int | None = None,
    variant: str = THOUGHTS,
    dtype: str = "float32",
    device: str = "cpu",
) -> TinyThoughts:
    """A shipped model, or a directory that `distill` made.

    Args:
        name: `codi-tiny` (always the shipped one; a directory of that name is `./codi-tiny`), or with a
            variant in the place of `thoughts`, as in `codi-secret/honest`; a directory of `distill`, or one
            model directory in it.
        seed: Which of the trained seeds; None: the first.
        variant: `thoughts`, or a control: `no_cot`, `pause`, `plain`, `bottleneck`, `honest`.
        dtype: Of weights and computation; files hold float16.
        device: Where to run.

    Raises:
        NotThereError: no such model, seed or variant; says which there are.
        ConfigError, ResourceError: no such dtype or device, or not here.
        CheckpointError: keys missing or left over, another shape, values not finite.
    """
    if dtype not in ("float32", "float64", "bfloat16", "float16"):
        raise ConfigError(f"Expected dtype float32, float64, bfloat16 or float16, got {dtype!r}")
    own, instead = _named(name)
    directory = _find(own, seed, instead if variant == THOUGHTS else variant)
    decoder, digest = read(directory)
    kind = getattr(torch, dtype)
    decoder = decoder.to(device=choose_device(device, kind), dtype=kind)
    return TinyThoughts(decoder, str(name), digest)


def own_problems(wanted: P, model: ThoughtModel) -> P:
    """`generated` problems become those that a shipped model was trained on, with its modulus."""
    if not isinstance(wanted, GeneratedConfig) or not isinstance(model, TinyThoughts):
        return wanted
    if wanted.source != "generated":
        return wanted
    p = model.modulus if wanted.p is None else wanted.p
    return wanted.model_copy(update={"source": model.cfg.problems, "p": p})


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    root = Path(str(resources.files("thoughtlens.models"))) / SHIPPED
    return sorted(d.name for d in root.iterdir() if d.is_dir())


def knows(name: str | Path) -> bool:
    """Whether a name is shipped here, or a directory that `distill` (or `save`) made."""
    if _named(name)[0] in shipped():
        return True
    own = Path(name).expanduser() / "config.json"
    return '"family": "tiny"' in own.read_text("utf-8", "replace") if own.is_file() else bool(members(name))


def members(name: str | Path = "codi-tiny") -> list[tuple[int, str]]:
    """(seed, variant) of every model under a shipped name or a directory of `distill`."""
    shipped_one = _named(name)[0]
    root = _root(shipped_one) if shipped_one in shipped() else Path(name).expanduser()
    found = (file.parent for file in root.glob("seed*/*/config.json")) if root.is_dir() else ()
    return sorted((int(d.parent.name.removeprefix("seed")), d.name) for d in found)


def controls(name: str | Path = "codi-tiny") -> list[str]:
    """Variants under a name that do not think in vectors: without thoughts, or with pause tokens."""
    modes = {
        v: _read_config(_find(_named(name)[0], s, v) / "config.json")["config"].get("mode")
        for s, v in members(name)
    }
    return sorted(variant for variant, mode in modes.items() if mode in ("none", "pause"))


def beside(model: ThoughtModel, variant: str) -> TinyThoughts | None:
    """The control that was trained beside a model, of the same seed; None: there is none."""
    name = model.name
    if not isinstance(model, TinyThoughts) or not knows(name):
        return None
    leaves = [_find(name, *one) for one in members(name)] or [Path(name).expanduser()]
    own = next((leaf for leaf in leaves if read(leaf)[1] == model.digest), None)
    if own is None or not (own.parent / variant / "config.json").is_file():
        return None
    return load(own.parent / variant, dtype=str(model.decoder.embed.weight.dtype).removeprefix("torch."))


def save(decoder: TinyDecoder, directory: Path, training: dict[str, Any]) -> None:
    """Write a model directory in float16; `training` says where the weights come from."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in decoder.state_dict().items()}
    with whole(directory / "model.safetensors") as part:
        save_file(tensors, part)
    table = {
        "schema": SCHEMA,
        "family": "tiny",
        "config": decoder.cfg.model_dump(mode="json"),
        "training": training,
    }
    (directory / "config.json").write_text(json.dumps(table, ensure_ascii=False) + "\n", "utf-8")


def read(directory: Path) -> tuple[TinyDecoder, str]:
    """Decoder of a model directory in float32, and the digest of its two files. Strict."""
    table = _read_config(directory / "config.json")
    decoder = TinyDecoder(validate_config(TinyConfig, table["config"]))
    file = directory / "model.safetensors"
    if not file.is_file():
        raise NotThereError(f"Expected weights at {file}, found none")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error}") from None
    _require_match(tensors, decoder.state_dict(), file)
    decoder.load_state_dict({k: v.float() for k, v in tensors.items()})
    return decoder, hashlib.sha256(file.read_bytes() + json.dumps(table["config"]).encode()).hexdigest()


def _require_match(got: dict[str, Tensor], want: dict[str, Tensor], file: Path) -> None:
    if missing := sorted(want.keys() - got.keys()):
        raise CheckpointError(f"{file} lacks {', '.join(missing)}; nothing was loaded")
    if extra := sorted(got.keys() - want.keys()):
        raise CheckpointError(f"{file} has keys this model does not: {', '.join(extra)}; nothing was loaded")
    for key, tensor in got.items():
        if tensor.shape != want[key].shape:
            raise CheckpointError(
                f"{file}: expected {key} of shape {tuple(want[key].shape)}, got {tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: {key} has values that are not finite")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    ours = isinstance(table, dict) and table.get("family") == "tiny" and table.get("schema") == SCHEMA
    if not ours or not isinstance(table.get("config"), dict):
        raise CheckpointError(
            f'Expected schema {SCHEMA} and family "tiny" in {file}, got another model\'s config'
        )
    return table


def _named(name: str | Path) -> tuple[str, str]:
    """A model's name, and the variant that stands for it: of shipped ones the part behind a slash."""
    own, _, variant = str(name).partition("/")
    return (own, variant or THOUGHTS) if own in shipped() else (str(name), THOUGHTS)


def _root(name: str | Path) -> Path:
    if str(name) in shipped():
        return Path(str(resources.files("thoughtlens.models"))) / SHIPPED / str(name)
    if (path := Path(name).expanduser()).is_dir():
        return path
    raise NotThereError(
        f"Expected a model that thinks in vectors: {', '.join(shipped())}, a directory, or owner/name of a "
        f"CODI or a Coconut on the hub, got {str(name)!r}"
    )


def _find(name: str | Path, seed: int | None, variant: str) -> Path:
    root = _root(name)
    if (root / "config.json").is_file():
        return root
    there = members(name)
    fitting = [s for s, v in there if v == variant and seed in (None, s)]
    if not fitting:
        listed = ", ".join(f"seed {s} {v}" for s, v in there) or "none"
        raise NotThereError(
            f"{name} has no {variant} of seed {'any' if seed is None else seed}; it has: {listed}"
        )
    return root / f"seed{fitting[0]}" / variant
