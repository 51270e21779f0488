from .readings import Thinking as Thinking
from .readings import read_out as read_out
from .readings import render as render
from .readings import think as think
