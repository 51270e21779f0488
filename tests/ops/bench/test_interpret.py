"""`thoughtlens bench interpret` on a few rows."""

from __future__ import annotations

import pytest

from thoughtlens.core import ConfigError
from thoughtlens.ops.bench.interpret import bench_interpret


@pytest.mark.parametrize("kind", ["text", "thoughts"])
def test_it_measures(kind):
    found = bench_interpret(rows=3000, d_sae=32, l0=4, kind=kind)
    # latents drawn twice for a vector count once
    assert 2 * 3000 < found["n_fires"] < 4 * 3000
    assert found["tables_s"] > 0 and found["cpu_s"] > 0 and found["peak_mb"] > 50
    assert (found["rows"], found["d_sae"], found["l0"], found["kind"]) == (3000, 32, 4, kind)


@pytest.mark.parametrize("bad", [{"kind": "images"}, {"l0": 0}, {"rows": 0}, {"l0": 9, "d_sae": 8}])
def test_refusals(bad):
    with pytest.raises(ConfigError, match=f"^{next(iter(bad))}: |Expected l0 <= d_sae, got 9 and 8"):
        bench_interpret(**bad)
