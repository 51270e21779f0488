"""What a notebook hands over by mistake is refused in one line, or understood.

In a process of its own: in this one the types and shapes of every call are checked before ours are.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from thoughtlens import sae as saes
from thoughtlens.core import ConfigError, NotThereError

PROGRAM = """
import json, sys, torch
from thoughtlens import sae as saes
from thoughtlens.core.errors import ThoughtlensError
from thoughtlens.sae import SparseActs

joint = sys.argv[1] == "crosscoder"
cfg = saes.CrosscoderConfig(d_sae=12, k=3, sites=("a", "b")) if joint else saes.TopKConfig(d_sae=12, k=3)
sae = saes.create(cfg, 6, seed=0)
sample = torch.randn((80, 2, 6) if joint else (80, 6), generator=torch.Generator().manual_seed(0))
sae.initialize(sample, *([] if joint else [torch.arange(80) % 2, [("a:out", 0), ("a:out", 1)]]))
x, cell = sample[:4], None if joint else torch.zeros(4, dtype=torch.long)
code, sparse = sae.encode(x, cell), sae.encode_sparse(x, cell)
values, indices = sparse.values, sparse.indices
calls = {
    "numpy": lambda: sae.encode(x.numpy(), cell),
    "a number": lambda: sae.encode(torch.tensor(1.0), cell),
    "code, list": lambda: sae.decode(code.tolist(), cell),
    "code, too wide": lambda: sae.decode(torch.cat([code, code], 1), cell),
    "indices, too large": lambda: sae.decode_sparse(SparseActs(values, indices + 12), cell),
    "indices, negative": lambda: sae.decode_sparse(SparseActs(values, indices - 13), cell),
    "indices, floats": lambda: sae.decode_sparse(SparseActs(values, indices.float()), cell),
    "indices, fewer": lambda: sae.decode_sparse(SparseActs(values, indices[:2]), cell),
}
if not joint:
    calls["complex"] = lambda: sae.encode(x.to(torch.complex64), cell)
    calls["cell, fewer"] = lambda: sae.encode(x, cell[:2])
    calls["cell, floats"] = lambda: sae.encode(x, cell.float())
    calls["cell, list"] = lambda: sae.encode(x, cell.tolist())
found = {}
for name, call in calls.items():
    try:
        found[name] = f"returned {call()}"
    except ThoughtlensError as error:
        found[name] = f"{type(error).__name__}: {error}"
doubles = torch.allclose(sae.decode(code.double(), cell), sae.decode(code, cell))
print(json.dumps([found, doubles, sae.encode(x.half(), cell).dtype == torch.float32]))
"""


@pytest.mark.parametrize("kind", ["topk", "crosscoder"])
def test_each_is_refused_by_what_it_is(kind):
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, doubles, halves = json.loads(done.stdout)
    assert doubles and halves
    for name, said in found.items():
        assert said.startswith("MismatchError: ") and "\n" not in said, f"{name}: {said}"
    assert "got a ndarray; torch.as_tensor makes a tensor of it" in found["numpy"]
    assert "got float32 of shape (4, 24)" in found["code, too wide"]


def test_load_names_what_is_there_instead(tmp_path):
    sae = saes.create(saes.TopKConfig(d_sae=12, k=3), 6, seed=0)
    for name in ("first", "second"):
        saes.save(sae, tmp_path / name)
    with pytest.raises(NotThereError, match=r"found 2 in it \(first, second\).*load_members"):
        saes.load(tmp_path)
    with pytest.raises(ConfigError, match="device: expected auto, cpu"):
        saes.load(tmp_path / "first", device="gpu")
