"""The doctor's report as text."""

from __future__ import annotations

from thoughtlens.core import number
from thoughtlens.ops.doctor.records import Bundled, Report, Speed


def render(report: Report) -> str:
    """One screen for people; everything else is in the JSON."""
    v, t, m = report.versions, report.threads, report.memory
    lines = [
        f"thoughtlens {v.thoughtlens}, Python {v.python}, {v.system}",
        f"packages    {_packages(report)}",
        f"extras      {_extras(report)}",
        f"cores       {t.usable} usable of {t.cores}, torch uses {t.torch}; {t.cpu}, {t.instructions}",
        f"memory      {_gb(m.available)} free of {_gb(m.total) if m.total else 'an unknown total'}",
    ]
    lines += [f"disk        {_gb(d.free)} free for {name} ({d.path})" for name, d in report.disk.items()]
    lines += [f"GPU         {g.name}, {_gb(g.free)} free of {_gb(g.bytes)}" for g in report.gpus]
    lines += [] if report.gpus else ["GPU         none that torch can use"]
    lines += [f"kernels     {d}: {k.kernels} ({k.why})" for d, k in report.kernels.items()]
    lines += [f"speed       {_speed(device, s)}" for device, s in report.speed.items()]
    lines += [f"models      {_models(report.bundled)}"]
    lines += [f"environment {' '.join(f'{k}={x}' for k, x in report.environment.items()) or 'nothing set'}"]
    lines += [f"would help: {text}" for text in report.advice]
    lines += [f"BROKEN: {text}" for text in report.broken]
    return "\n".join(lines if report.broken else [*lines, "all that is needed is here"])


def _packages(report: Report) -> str:
    shown = {p.name: p.installed for p in report.packages if p.name in ("torch", "transformers", "numpy")}
    bad = sum(not p.ok for p in report.packages)
    said = ", ".join(f"{name} {version}" for name, version in shown.items())
    return f"{said}; {len(report.packages) - bad} of {len(report.packages)} as needed"


def _extras(report: Report) -> str:
    return ", ".join(f"{name} {e.installed or 'no'}" for name, e in report.extras.items()) or "none"


def _speed(device: str, s: Speed) -> str:
    products = ", ".join(f"{number(g)} GFLOP/s in {name}" for name, g in s.gflops.items())
    reference = s.reference
    return (
        f"{device}: {products}; training step {s.train_step_ms:.0f} ms "
        f"({reference.train_step_ms:.0f} ms on {reference.machine})"
    )


def _models(bundled: Bundled) -> str:
    there = dict(bundled.thought_models) | {n: m.there for n, m in bundled.language_models.items()}
    beside = {name: f" (controls: {', '.join(names)})" for name, names in bundled.controls.items() if names}
    return ", ".join(f"{n} {'' if yes else 'not '}here{beside.get(n, '')}" for n, yes in there.items())


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
