"""Seeded damage to files, for what must be refused in one line."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np

ODD = (
    None,
    -1,
    0,
    3,
    2**63,
    1e308,
    float("nan"),
    "",
    "x",
    "topk",
    [],
    {},
    [[]],
    True,
    "../../etc",
    "9" * 500,
)
"""Values that a settings file should not have."""


def damage(source: Path, out: Path, seed: int) -> str:
    """A copy of a folder with one file changed; says how."""
    rng = np.random.default_rng(seed)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    files = sorted(f for f in out.iterdir() if f.is_file())
    file = files[rng.integers(len(files))]
    if file.suffix == ".json" and rng.random() < 0.8:
        return f"{file.name}: {_settings(file, rng)}"
    if file.suffix in (".pt", ".npz") and rng.random() < 0.6:
        return f"{file.name}: {_inside(file, rng)}"
    data = file.read_bytes()
    file.write_bytes(_bytes(data, rng))
    return f"{file.name}: bytes"


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    how = rng.integers(6)
    changed = bytearray(data)
    at = int(rng.integers(max(1, len(data))))
    if how == 0:
        return data[:at]
    if how == 1:
        for i in rng.integers(0, max(1, len(data)), size=int(rng.integers(1, 9))):
            changed[i] = rng.integers(256)
    elif how == 2:  # the head, where sizes are
        for i in rng.integers(0, min(200, len(data)), size=int(rng.integers(1, 5))):
            changed[i] = rng.integers(256)
    elif how == 3:
        changed[at:at] = rng.bytes(int(rng.integers(1, 64)))
    elif how == 4:  # the tail, where a zip file has its index
        for i in rng.integers(max(0, len(data) - 300), len(data), size=int(rng.integers(1, 5))):
            changed[i] = rng.integers(256)
    else:
        changed[:8] = int(rng.integers(1, 2**62)).to_bytes(8, "little")
    return bytes(changed)


def _settings(file: Path, rng: np.random.Generator) -> str:
    """Another value, a missing key or an unknown one, at any depth."""
    table = json.loads(file.read_text())
    here = table
    while True:
        key = sorted(here)[rng.integers(len(here))]
        if isinstance(here[key], dict) and here[key] and rng.random() < 0.8:
            here = here[key]
            continue
        break
    how = rng.integers(4)
    if how == 0:
        del here[key]
    elif how == 1:
        here["surprise"] = ODD[rng.integers(len(ODD))]
    else:
        here[key] = ODD[rng.integers(len(ODD))]
    file.write_text(json.dumps(table))
    return f"{key} {('gone', 'beside a surprise', 'changed', 'changed')[how]}"


def _inside(file: Path, rng: np.random.Generator) -> str:
    """One entry of a zip file damaged, its checksum right."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    name = sorted(entries)[rng.integers(len(entries))]
    if rng.random() < 0.5:  # the pickle says what the other entries are
        name = next((n for n in entries if n.endswith(".pkl")), name)
    if rng.random() < 0.1:
        del entries[name]
    else:
        entries[name] = _bytes(entries[name], rng)
    kind = zipfile.ZIP_DEFLATED if file.suffix == ".npz" and rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for key, data in entries.items():
            archive.writestr(key, data)
    return f"{name} inside"
