"""Metrics refuse what is no tensor of rows in one line, in a process without checks of types by others."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, torch
from thoughtlens import metrics
from thoughtlens.core.errors import DataError

x = torch.randn(4, 6)
calls = {
    "a ndarray": [lambda: metrics.FVU().update(x, x.numpy()), lambda: metrics.L0().update(x.numpy())],
    "a list": [lambda: metrics.MSE().update(x.tolist(), x), lambda: metrics.Density(6).update(x.tolist())],
    "shape [6]": [lambda: metrics.L1().update(x[0]), lambda: metrics.Dead(6).update(x[0])],
}
found = []
for got, both in calls.items():
    for call in both:
        try:
            found.append([got, f"returned {call()}"])
        except DataError as error:
            found.append([got, str(error)])
print(json.dumps(found))
"""


def test_what_is_no_tensor_of_rows():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    for got, said in found:
        assert said.startswith("Expected ") and said.endswith(f"got {got}")
