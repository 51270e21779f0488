"""What a store says of how it was made."""

from __future__ import annotations

from thoughtlens.acts.extract.config import ExtractConfig
from thoughtlens.acts.store.reader import ActivationStore
from thoughtlens.core import load_config, read_recipe, validate_config


def made_with(store: ActivationStore) -> ExtractConfig:
    """The settings that a store was made with: its `config.toml`.

    Without one they are what its meta says, and of a store that another program wrote its model's name and
    revision, computing in float32, and for the rest the defaults.
    """
    if _extracted(store):
        return load_config(ExtractConfig, store.root)
    reading = dict(store.meta.reading)
    own = {"name": store.meta.model} if store.meta.model else {}
    own |= {"revision": store.meta.model_revision}
    return validate_config(
        ExtractConfig, {"model": own | {"dtype": reading.pop("dtype", "float32")}, **reading}
    )


def says_how(store: ActivationStore) -> bool:
    """Whether a store of texts says how they were cut: by its own settings, or in its meta."""
    return _extracted(store) or "bos" in store.meta.reading


def _extracted(store: ActivationStore) -> bool:
    """Whether the settings beside a store are those of an extraction."""
    return (store.root / "config.toml").is_file() and not imported(store)


def imported(store: ActivationStore) -> bool:
    """Whether a store was made of files, by the import stage."""
    return (store.root / "config.toml").is_file() and "files" in read_recipe(store.root)
