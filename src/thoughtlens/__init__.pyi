from collections.abc import Callable
from typing import Any

from . import acts as acts
from . import cli as cli
from . import core as core
from . import evals as evals
from . import interventions as interventions
from . import latents as latents
from . import models as models
from . import numerics as numerics
from . import ops as ops
from . import problems as problems
from . import sae as sae
from . import show as show
from . import studies as studies
from . import tracing as tracing
from .models.thought.open import load_model as load_model
from .models.thought.places import Place as Place
from .numerics import metrics as metrics
from .sae.formats.open import load_sae as load_sae
from .sae.kinds.base import SAE as SAE
from .show.pages.run import Run as Run
from .studies.notebook import fit as fit
from .studies.notebook import open_run as open_run
from .studies.notebook import read as read
from .studies.notebook import run as run
from .studies.notebook import think as think

__version__: str

def face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]: ...
