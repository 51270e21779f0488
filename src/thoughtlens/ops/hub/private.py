"""Paths of this machine, taken out of what is published."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path, PureWindowsPath
from typing import Any

import tomli_w

from thoughtlens.core import StoreError

TABLES = {".json": json.loads, ".toml": tomllib.loads}
TEXTS = (".html", ".md", ".txt", ".csv", ".js", ".svg")
EMBEDDED = re.compile(r"(?<![\w/.:~<-])(?:/[\w.@+=-]+){2,}/?")
"""An absolute path of two parts or more inside a sentence; not the path of a URL."""


class Cleaner:
    """Rewrites absolute paths: those in the pushed directory relative to it, others to their last part.

    Args:
        root: The directory that is pushed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: dict[str, str] = {}
        """What was written otherwise, and how."""
        home = Path.home()
        self._prefixes = [(str(root), root.name), (str(root.parent), ""), (str(Path.cwd()), "")]
        self._prefixes += [(str(home), "~")] if len(home.parts) > 1 else []

    def clean(self, file: Path) -> bytes | None:
        """The file's bytes without such paths; None where it has none.

        Raises:
            StoreError: a `.json` or `.toml` file that is damaged.
        """
        if file.suffix in TABLES:
            try:
                table = TABLES[file.suffix](file.read_text("utf-8"))
            except ValueError as error:
                raise StoreError(f"{file} is damaged ({error}); it is not pushed") from None
            cleaned = self._table(table)
            if cleaned == table:
                return None
            text = (
                tomli_w.dumps(cleaned)
                if file.suffix == ".toml"
                else json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"
            )
            return text.encode()
        if file.suffix in TEXTS:
            data = file.read_bytes()
            cleaned_data = self._known(data.decode("utf-8", "surrogateescape")).encode(
                "utf-8", "surrogateescape"
            )
            return None if cleaned_data == data else cleaned_data
        return None

    def _table(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._table(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self._table(v) for v in value]
        return self._string(value) if isinstance(value, str) else value

    def _string(self, text: str) -> str:
        path = Path(text)
        if "\n" not in text and path.is_absolute() and len(path.parts) > 2:
            new = (
                f"{self.root.name}/{path.relative_to(self.root)}"
                if path.is_relative_to(self.root)
                else path.name
            )
            new = new.removesuffix("/.")
        elif "\n" not in text and PureWindowsPath(text).is_absolute() and PureWindowsPath(text).drive:
            new = PureWindowsPath(text).name
        else:
            new = EMBEDDED.sub(lambda found: Path(found[0]).name, self._known(text))
        if new != text:
            self.changes[text] = new
        return new

    def _known(self, text: str) -> str:
        """Without the directories that this machine is known by."""
        for prefix, new in self._prefixes:
            if prefix in text and prefix != "/":
                text = re.sub(re.escape(prefix) + (r"(?=/|\b)" if new else r"/"), new, text)
        return text
