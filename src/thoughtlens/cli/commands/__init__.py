"""The commands; each module adds its own, and `--help` lists them in this order."""

import importlib

MODULES = (
    "think circuit run bring sweep look thoughts latents serve track hub problems saes runs bench doctor"
)
for name in MODULES.split():
    importlib.import_module(f"{__name__}.{name}")
