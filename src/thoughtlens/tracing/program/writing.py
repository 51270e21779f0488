"""The program as a file: plain Python that needs nothing but Python, its tables included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thoughtlens.tracing.program.asked import NO_WORD, UNKNOWN
from thoughtlens.tracing.program.records import Variable
from thoughtlens.tracing.program.tables import ANSWER, Exit, Key, Step

FILE = "program.py"
HEAD = '''"""{title}

{about}

Written by thoughtlens from interventions on {model}, problems of split train. What a table does not
know is None. One problem per line of standard input, as JSON:

    echo '{{"words": {words}}}' | python {file}
"""

import json
import sys


def table(text):
    """Rows: what was before; columns: the operation, the last thing that it is looked up by."""
    header, *lines = (line.split() for line in text.strip().splitlines())
    cells = {{}}
    for row, *values in lines:
        for column, value in zip(header, values):
            if value != "{unknown}":
                cells[tuple(word for word in (*row.split(","), column) if word != "{no_word}")] = value
    return cells

'''
RUN = '''
def run(words, swap=None, thoughts=None):
    """Every variable of a problem that says these words.

    swap: variables that are set, as by putting in a thought of another problem.
    thoughts: answer after so many thoughts.
    """
    it = dict(zip({names}, words))
    swap = swap or {{}}
    it.update((name, word) for name, word in swap.items() if name in it)
{steps}
    if thoughts is not None:
        names, said = EARLY[thoughts]
        it["{answer}"] = said.get(tuple(it[name] for name in names))
    return it

'''
TAIL = """

if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))))
"""
STEP = '    it["{gives}"] = swap.get("{gives}", {table}.get(({of})))'


@dataclass(frozen=True)
class Draft:
    """What the file says."""

    model: str
    n_steps: int
    variables: Sequence[Variable]
    tables: Mapping[str, tuple[list[Step], dict[Key, str]]]
    """By the name of the table."""
    leaves: Sequence[Exit]
    example: Sequence[str]
    """The words of some problem."""

    def text(self) -> str:
        """The whole file."""
        model = _inside(self.model)
        about = "\n".join(f"    {one.name:8}{where(one)}" for one in self.variables)
        words = "[" + ", ".join(f'"{_inside(word)}"' for word in self.example) + "]"
        head = HEAD.format(
            title=f"What the thoughts of {model} compute on problems of {_steps(self.n_steps)}.",
            about=about,
            model=model,
            words=words,
            file=FILE,
            unknown=UNKNOWN,
            no_word=NO_WORD,
        )
        names = tuple(one.name for one in self.variables if one.named_by == "question")
        ways = {step.gives: (name, step) for name, (own, _) in self.tables.items() for step in own}
        order = [one.name for one in self.variables if one.name in ways]
        steps = [
            STEP.format(
                gives=gives,
                table=ways[gives][0],
                of=", ".join(f'it["{name}"]' for name in ways[gives][1].of),
            )
            for gives in order
        ]
        run = RUN.format(names=names, steps="\n".join(steps), answer=ANSWER)
        tables = [f"{name} = {_written(cells)}\n" for name, (_, cells) in self.tables.items()]
        early = [f"    {one.n_thoughts}: ({one.of!r}, {_written(one.cells)}),\n" for one in self.leaves]
        return "".join([head, run, "\n", *tables, "EARLY = {\n", *early, "}\n", TAIL])


def where(one: Variable) -> str:
    """Where a variable is, in words."""
    if one.route is None:
        return "the question says it" if one.named_by == "question" else "the answer"
    also = f"; also in {', '.join(one.also)}" if one.also else ""
    return f"{one.route} of thought {one.thought_idx}{also}"


def _steps(n: int) -> str:
    return "one step" if n == 1 else f"{n} steps"


def _written(cells: Mapping[Key, str]) -> str:
    """A table as text, its columns aligned."""
    rows = sorted({key[:-1] for key in cells}, key=lambda row: [_order(word) for word in row])
    columns = sorted({key[-1:] for key in cells}, key=lambda column: [_order(word) for word in column])
    grid = [["", *("".join(column) or NO_WORD for column in columns)]]
    grid += [
        [",".join(row) or NO_WORD, *(cells.get(row + column, UNKNOWN) for column in columns)] for row in rows
    ]
    grid = [[*map(_inside, line)] for line in grid]
    width = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [" ".join(f"{word:>{n}}" for word, n in zip(row, width, strict=True)) for row in grid]
    return 'table("""\n' + "\n".join(lines) + '\n""")'


def _inside(text: str) -> str:
    """Foreign text, a model's name or its answers, between quotes: it stays text when the file is run."""
    return "".join('\\"' if char == '"' else repr(char)[1:-1] for char in text)


def _order(word: str) -> tuple[str, float, str]:
    """Operations by their sign and number, numbers by their size."""
    sign, number = (word[:1], word[1:]) if word[:1] in "+-*/" else ("", word)
    return sign, float(number) if number.isdecimal() else -1.0, word
