from .doctor.render import render as render
from .tracking import past as past
from .tracking.feed import live as live
