"""What is installed, and what came with the package."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib import metadata, resources
from pathlib import Path

from packaging.requirements import Requirement

from thoughtlens import __version__
from thoughtlens.core import recipe_names
from thoughtlens.models import BUNDLED, SHIPPED, cache_dir, tiny
from thoughtlens.ops.doctor.records import Bundled, BundledModel, Cache, Extra, Package, Versions
from thoughtlens.show import PAGE, SCRIPTS, STYLE

USES = {
    "datasets": "text and problems streamed from the hub",
    "wandb": "tracking in Weights & Biases",
    "tensorboard": "tracking in TensorBoard",
    "trackio": "tracking in trackio",
}
"""What the extras are for; extras that only tests need are not listed."""
THOUGHT_MODELS = ("codi-secret", "codi-tiny", "codi-words")
"""What must have come along."""


def versions() -> Versions:
    """Of the package and of what it runs on."""
    return Versions(
        thoughtlens=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
    )


def packages() -> list[Package]:
    """Every package that must be there: the version asked for, the one that is, and whether that will do."""
    return [_package(Requirement(text)) for text in _required() if "extra ==" not in text]


def extras() -> dict[str, Extra]:
    """What may be there besides, by extra."""
    found = {}
    for text in _required():
        requirement = Requirement(text)
        for name, use in USES.items():
            if (
                requirement.marker
                and "extra" in str(requirement.marker)
                and requirement.marker.evaluate({"extra": name})
            ):
                found[name] = Extra(use=use, **vars(_package(requirement)))
    return found


def bundled() -> Bundled:
    """Models, recipes and pages: what came along, and where the bundled language model is."""
    weights = Path(str(resources.files("thoughtlens.models"))) / SHIPPED
    names = (*SCRIPTS, STYLE, "index.html")
    return Bundled(
        thought_models={name: any((weights / name).rglob("*.safetensors")) for name in THOUGHT_MODELS},
        language_models={name: _language_model(*source) for name, source in BUNDLED.items()},
        recipes=recipe_names(),
        explorer_pages_missing=[name for name in names if not (PAGE / name).is_file()],
        controls={name: tiny.controls(name) for name in THOUGHT_MODELS if (weights / name).is_dir()},
    )


def cache() -> Cache:
    """Where dequantised models are kept, and how large that is."""
    root = cache_dir()
    files = [f for f in root.rglob("*") if f.is_file()] if root.is_dir() else []
    nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
    n_bytes = sum(file.stat().st_size for file in files)
    return Cache(path=str(root), bytes=n_bytes, writable=nearest.is_dir() and os.access(nearest, os.W_OK))


def _required() -> list[str]:
    """What the package asks for; nothing where it runs without having been installed."""
    try:
        return metadata.requires("thoughtlens") or []
    except metadata.PackageNotFoundError:
        return []


def _language_model(module: str, package: str, file: str) -> BundledModel:
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    there = any((Path(folder) / file).is_file() for folder in folders)
    return BundledModel(package=package, there=there)


def _package(requirement: Requirement) -> Package:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = None
    ok = installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return Package(name=requirement.name, needs=str(requirement.specifier), installed=installed, ok=ok)
