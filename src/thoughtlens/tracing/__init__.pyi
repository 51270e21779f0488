from .readings import Thinking as Thinking
from .readings import render as render
from .readings import think as think
