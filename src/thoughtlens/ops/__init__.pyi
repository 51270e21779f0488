from .clean.clean import USUAL as USUAL
from .clean.clean import delete as delete
from .clean.clean import pieces_of as pieces_of
from .doctor.render import render as render
from .tracking import past as past
from .tracking.feed import live as live
