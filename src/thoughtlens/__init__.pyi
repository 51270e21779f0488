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
from .numerics import metrics as metrics

__version__: str
