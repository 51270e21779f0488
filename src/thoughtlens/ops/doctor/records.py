"""What the doctor finds, as `thoughtlens doctor --json` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field

from thoughtlens.core import Record, column


@dataclass(frozen=True, kw_only=True)
class Versions(Record):
    """Of the package and of what it runs on."""

    thoughtlens: str
    python: str
    executable: str
    system: str


@dataclass(frozen=True, kw_only=True)
class Package(Record):
    """The version asked for, the one that is there, and whether that will do."""

    name: str
    needs: str
    installed: str | None
    ok: bool


@dataclass(frozen=True, kw_only=True)
class Extra(Package):
    """A package that may be there besides."""

    use: str = column(key="for")


@dataclass(frozen=True, kw_only=True)
class Chosen(Record):
    """Which kernels float32 weights get, and why."""

    kernels: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Threads(Record):
    """Cores of the machine, those that this process may use, and the threads that torch starts."""

    cores: int | None
    usable: int
    quota: float | None
    """Cores' worth of time that the container may take."""
    torch: int
    load: float | None
    cpu: str
    instructions: str
    fast_bfloat16: bool


@dataclass(frozen=True, kw_only=True)
class Memory(Record):
    """Bytes of main memory: all (None: not told), what may be taken now, and the limit of this container."""

    total: int | None
    available: int
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Disk(Record):
    """Bytes free where something is written."""

    path: str
    free: int


@dataclass(frozen=True, kw_only=True)
class Gpu(Record):
    """A GPU that torch can use."""

    name: str
    bytes: int
    free: int
    capability: str


@dataclass(frozen=True, kw_only=True)
class Cache(Record):
    """Where dequantised models are kept, and how large that is."""

    path: str
    bytes: int
    writable: bool


@dataclass(frozen=True, kw_only=True)
class BundledModel(Record):
    """The bundled language model: the package that carries it, and whether that is here."""

    package: str
    there: bool


@dataclass(frozen=True, kw_only=True)
class Bundled(Record):
    """Models, recipes and pages: what came along."""

    thought_models: dict[str, bool]
    language_models: dict[str, BundledModel]
    recipes: list[str]
    explorer_pages_missing: list[str]
    controls: dict[str, list[str]] = field(default_factory=dict)
    """Of each thought model, the variants that do not think in vectors."""


@dataclass(frozen=True, kw_only=True)
class Reference(Record):
    """A machine whose speed is on record."""

    train_step_ms: float
    machine: str


@dataclass(frozen=True, kw_only=True)
class Speed(Record):
    """How fast a device is: medians after a warm-up."""

    device: str
    gflops: dict[str, float]
    """By dtype, of `[1024, 1024] @ [1024, 1024]`."""
    train_step_ms: float
    """Of the step in `reference`."""
    kernels: str
    threads: int
    reference: Reference


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """What a user, or someone who helps one, must know about an installation."""

    versions: Versions
    packages: list[Package]
    extras: dict[str, Extra]
    kernels: dict[str, Chosen]
    """By device."""
    threads: Threads
    environment: dict[str, str]
    memory: Memory
    disk: dict[str, Disk]
    """By what is written there."""
    gpus: list[Gpu]
    unused_gpu: bool
    """Whether a GPU is there that torch cannot use."""
    cache: Cache
    bundled: Bundled
    speed: dict[str, Speed]
    """By device; empty where it was not measured."""
    advice: list[str] = field(default_factory=list)
    """What would help, most important first."""
    broken: list[str] = field(default_factory=list)
    """What keeps it from working."""
