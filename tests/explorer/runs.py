"""Runs for the explorer whose latents are known, and whose texts are as hostile as texts can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.planted import D, planted_sae, thought_store
from thoughtlens.interpret import InterpretConfig, interpret

HOSTILE = [
    "</script><script>window.broken=1</script>",
    "<img src=x onerror='window.broken=1'>",
    "line\u2028separator and \u2029 paragraph",
    "\u202eright to left\u202c",
    "lone byte <c3> and \ufffd",
    '");alert(1);//',
    "{{7*7}} ${7*7}",
]


def thought_run(root: Path, n: int = 60) -> Path:
    """A run of three thoughts and two hooks: latent 3 fires on "mul" at hook 1, thought 2; 9 never."""
    rng = np.random.default_rng(0)
    strengths = np.where(rng.random((n, 3, 2, D)) < 0.2, rng.random((n, 3, 2, D)), 0)
    label = rng.integers(0, 3, n)
    strengths[..., 3] = strengths[..., 9] = 0
    strengths[label == 1, 2, 1, 3] = 2 + rng.random((label == 1).sum())
    names = ["add", "</script><b>mul</b>", "mixed"]
    questions = [HOSTILE[i % len(HOSTILE)] for i in range(n)]
    thought_store(root / "acts", strengths, {"operation": [names[i] for i in label]}, questions=questions)
    planted_sae(root / "sae")
    interpret(InterpretConfig(acts=root / "acts", sae=root / "sae"), root / "interpret")
    return root
