"""Any model by name: a language model, or one that thinks in vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thoughtlens.models.hf.load import LanguageModel
    from thoughtlens.models.thought.thoughts import ThoughtModel

THOUGHT_KEYS = ("base_causallm.", "codi.", "prj.", "recurrent_filter.")
"""Parts of tensor names that only checkpoints of thought models have."""


def load_model(
    name: str | Path, *, family: str | None = None, **options: Any
) -> LanguageModel | ThoughtModel:
    """A model by name; what it is follows from the name and from what lies there.

    Args:
        name: A bundled language model (`smollm2-135m`), a shipped thought model (`codi-tiny`, `codi-words`),
            a directory, a checkpoint or GGUF file, a hub id, or a function that returns a `ThoughtModel`
            (`my_module:load`, `my_model.py:load`).
        family: `hf` for a language model; of a thought model tiny, codi, coconut, colar, soft, one that an
            installed package registers, or a function that takes the name; None: told from the name.
        options: Those of the loader: `dtype`, `device`, `revision` of both; `base`, `eos_before` ... of
            thought models.

    Raises:
        NotThereError, ConfigError, CheckpointError, ResourceError: see `models.hf.load.load` and
            `models.thought.thoughts.load`.

    Example:
        ```python
        model = tl.load_model("codi-tiny")
        print(type(model).__name__, model.spec.n_thoughts)
        ```
    """
    if family != "hf" and (family is not None or thinks(name)):
        from thoughtlens.models.thought import foreign, thoughts

        foreign.allow(family or str(name))  # whoever calls this has named it
        return thoughts.load(name, family=family, **options)
    from thoughtlens.models.hf import load

    return load.load(str(name), **options)


def thinks(name: str | Path) -> bool:
    """Whether a name is that of a thought model, as far as the name or the files there tell."""
    from thoughtlens.models.hf.locate import require_name
    from thoughtlens.models.thought import foreign, tiny, weights
    from thoughtlens.models.thought.known import known

    require_name(name)
    path = Path(name).expanduser()
    said = (path.name if path.exists() else str(name)).lower()
    if (
        foreign.is_code(name)
        or tiny.knows(name)
        or any(word in said for word in ("codi", "coconut", "colar"))
    ):
        return True
    if known(weights.hub_id(name)):
        return True
    if not path.exists() or path.suffix == ".gguf":
        return False
    if weights.adapts_a_thought_model(path):
        return True
    from thoughtlens.models.thought import native  # here: it loads transformers

    return native.kind(path) is not None or any(
        part in key for key in weights.names_in(path) for part in THOUGHT_KEYS
    )
