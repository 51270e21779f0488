"""What a store says of how it was made."""

from __future__ import annotations

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import load_config, validate_config


def made_with(store: ActivationStore) -> ExtractConfig:
    """The settings that a store was made with: its `config.toml`.

    Without one they are what its meta says, and of a store that another program wrote its model's name and
    revision, computing in float32, and for the rest the defaults.
    """
    if (store.root / "config.toml").is_file():
        return load_config(ExtractConfig, store.root)
    reading = dict(store.meta.reading)
    own = {"name": store.meta.model, "revision": store.meta.model_revision}
    return validate_config(
        ExtractConfig, {"model": own | {"dtype": reading.pop("dtype", "float32")}, **reading}
    )


def says_how(store: ActivationStore) -> bool:
    """Whether a store of texts says how they were cut: by its own settings, or in its meta."""
    return (store.root / "config.toml").is_file() or "bos" in store.meta.reading
