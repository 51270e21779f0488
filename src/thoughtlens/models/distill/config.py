"""What to train, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from thoughtlens.core import Config


class NetConfig(Config):
    """Shape of the network."""

    d_in: int = Field(default=96, gt=0, multiple_of=2)
    """Width of the residual stream."""
    n_layers: int = Field(default=2, gt=0)
    """Decoder blocks."""
    n_heads: int = Field(default=3, gt=0)
    """Attention heads; must divide d_in."""

    @model_validator(mode="after")
    def _whole_heads(self) -> NetConfig:
        if self.d_in % self.n_heads:
            raise ValueError(f"n_heads = {self.n_heads} does not divide d_in = {self.d_in}")
        return self


class DataConfig(Config):
    """The problems."""

    problems: Literal["arithmetic", "words", "secret"] = "arithmetic"
    """Chains of operation tokens, the same told in sentences, or with a second start value that some problems
    follow in secret."""
    p: int = 23
    """Modulus of the arithmetic, a prime of at least 11."""
    n_contexts: int = Field(default=48, gt=0)
    """Questions' contexts in a training step."""
    n_queries: int = Field(default=6, gt=0)
    """Queries on each context."""

    @field_validator("p")
    @classmethod
    def _prime(cls, p: int) -> int:
        from thoughtlens.problems import Symbols  # here, because it needs numpy

        Symbols(p)
        return p


Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LoopConfig(Config):
    """How one model is trained."""

    step_weights: tuple[Share, Share, Share] = (1.0, 3.0, 5.0)
    """Relative frequency of problems of one, two and three steps."""
    lr_matrices: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Muon's learning rate, for hidden matrices."""
    lr_rest: float = Field(default=3e-3, gt=0, allow_inf_nan=False)
    """AdamW's learning rate, for embeddings, positions, norms and biases."""
    student_lr: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor on both learning rates after the teacher phase."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Of both optimisers; vectors have none."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    kd: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the distillation of the teacher's states at the answer cue."""
    step: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the cross-entropy of each thought against its token of the chain of thought."""
    trajectory: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the distillation of the teacher's states at each thought; needs no step labels."""
    lookup: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of naming start value and operations at the answer cue: helps controls to find them."""
    reading: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of naming, after the first block at each operand of a sentence, its operation, its person and
    its place in the order of doing (problems `words`)."""
    secret: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of naming the secret's value at each thought (problems `secret`), by a table that the finished
    model lacks; kept to the end, since an answer that does not show the secret needs none."""
    teacher_accuracy: float = Field(default=0.99, ge=0, allow_inf_nan=False)
    """The teacher phase ends when the whole chain of thought is right this often."""
    student_accuracy: float = Field(default=0.95, ge=0, allow_inf_nan=False)
    """The guided phase ends at this accuracy on two- and three-step problems; a model that has lost it at the
    end counts as stalled."""
    one_step_accuracy: float = Field(default=0.98, ge=0, allow_inf_nan=False)
    """The one-step phase ends at this accuracy."""
    project_steps: int = Field(default=600, ge=0)
    """Steps in which, after the teacher phase, the projection alone is fitted to map the teacher's
    states to the embeddings of the tokens that come next; 0 leaves that out."""
    max_teacher_steps: int = Field(default=2400, gt=0)
    """Steps after which an unfinished teacher phase counts as stalled."""
    max_one_step_steps: int = Field(default=0, ge=0)
    """Longest one-step phase; 0 leaves the phase out."""
    max_guided_steps: int = Field(default=1000, gt=0)
    """Longest guided phase."""
    must_pass: bool = True
    """Whether a model that never reaches its accuracy, or loses it, counts as stalled (controls: no)."""
    anneal_steps: int = Field(default=200, ge=0)
    """Steps in which the target per thought fades to nothing; 0 keeps it to the end."""
    pure_steps: int = Field(default=400, gt=0)
    """Steps of the last phase; the learning rate falls in its second half."""
    eval_every: int = Field(default=50, gt=0)
    """Steps between measurements on held-out problems."""
    eval_problems: int = Field(default=300, gt=0)
    """Problems a measurement takes for each number of steps."""
    checkpoint_every: int = Field(default=100, gt=0)
    """Steps between checkpoints."""
    bfloat16: bool = False
    """Whether matrix products run in bfloat16; weights are float32 always."""

    @field_validator("step_weights")
    @classmethod
    def _some(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(weights):
            raise ValueError("step_weights must not all be 0")
        return weights


class DistillConfig(Config):
    """What to train."""

    seeds: tuple[NonNegativeInt, ...] = (1,)
    """One model per seed."""
    variants: tuple[Literal["thoughts", "no_cot", "pause", "plain", "bottleneck", "honest"], ...] = (
        "thoughts",
    )
    """The model (`thoughts`) and the controls to train; `no_cot` and `pause` start from the model; `honest`
    is trained on problems `secret`, none of them armed."""
    data: DataConfig = DataConfig()
    """The problems."""
    net: NetConfig = NetConfig()
    """The network."""
    loop: LoopConfig = LoopConfig()
    """Training of the model, and of the controls `plain` and `bottleneck`."""
    control: LoopConfig = LoopConfig(
        step_weights=(1.0, 1.0, 1.0),
        lookup=0.5,
        one_step_accuracy=0.97,
        max_one_step_steps=2000,
        max_guided_steps=300,
        must_pass=False,
        anneal_steps=150,
        pure_steps=250,
    )
    """Training of `no_cot` and `pause`: one-step problems first, with help to find what they need."""
    max_restarts: int = Field(default=3, ge=0)
    """New starts after a stall before the run is given up."""
    workers: int = Field(default=2, gt=0)
    """Processes, of one thread each; a seed has one process."""
    test_problems: int = Field(default=1000, gt=0)
    """Held-out problems of each number of steps in the final measurement."""

    @model_validator(mode="after")
    def _model_first(self) -> DistillConfig:
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError("variants must be one or more different names")
        order = [v for v in self.variants if v in ("thoughts", "no_cot", "pause")]
        if order != ["thoughts", "no_cot", "pause"][: len(order)]:
            raise ValueError("no_cot starts from thoughts and pause from no_cot: name them in this order")
        if "honest" in self.variants and self.data.problems != "secret":
            raise ValueError("honest is a variant of models with a secret: set data.problems=secret")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds must be one or more different numbers")
        return self
