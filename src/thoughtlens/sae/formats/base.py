"""What a file of this package gives for its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from thoughtlens.core import Json, write_json
from thoughtlens.sae.formats.arithmetic import Forward
from thoughtlens.sae.formats.files import write_tensors
from thoughtlens.sae.formats.portable import Portable


class Format(ABC):
    """One library's way to keep an SAE."""

    name: ClassVar[str]
    file: ClassVar[str]
    """Where the weights are, in the SAE's folder."""
    one_folder: ClassVar[bool] = False
    """Whether SAEs of several layers lie in one folder, a file each."""

    def finds(self, path: Path) -> bool:
        """Whether the path looks like one, by its files' names: the folder or the file."""
        return path.name == self.file or (path / self.file).is_file()

    def parts(self, path: Path) -> dict[str, Path]:
        """The files of a folder with several SAEs, by name; empty where it is one SAE itself."""
        return {}

    def doubts(self, out: Path) -> list[str]:
        """What a user should know of a folder that several SAEs were written into."""
        return []

    def weights_of(self, sae: Portable, out: Path) -> Path:
        """Where `forward` finds what was written of one SAE."""
        return out

    def weights_at(self, path: Path) -> Path:
        """The file of a folder; a file as it is."""
        return path if path.suffix == Path(self.file).suffix else path / self.file

    @abstractmethod
    def read(self, path: Path) -> Portable:
        """What the files hold, checked."""

    @abstractmethod
    def write(self, sae: Portable, out: Path) -> Portable:
        """Write the files; returns what they hold, or raises MismatchError and names what they cannot."""

    @abstractmethod
    def forward(self, path: Path, x: Tensor) -> Forward:
        """The format's own rule on float64 rows, sharing no code with `read`'s meaning of the tensors."""

    def save(self, out: Path, tensors: dict[str, Tensor], settings: Json, file: str = "cfg.json") -> None:
        """The two files of a folder: weights in safetensors and settings in JSON."""
        out.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, out / self.file)
        write_json(out / file, settings)
