"""The interpret stage: what each latent responds to, from one encoding pass over the store.

The pass streams the sparse codes to disk, by vector and by latent (`explain.codes`); every table is then
computed from there, latent by latent, so that quantiles are exact, memory does not grow with the store's
activations, and a killed stage goes on after the last table it finished.
"""

from thoughtlens.interpret.config import InterpretConfig, plan
from thoughtlens.interpret.run import interpret

__all__ = ["InterpretConfig", "interpret", "plan"]
