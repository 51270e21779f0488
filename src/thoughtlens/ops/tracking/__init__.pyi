from .feed import Feed as Feed
from .feed import live as live
from .names import NAMES as NAMES
from .names import Names as Names
from .past import track as track
from .trackers import TRACKERS as TRACKERS
