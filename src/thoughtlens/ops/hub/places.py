"""Where things are pushed to and pulled from: the Hugging Face hub, or a directory."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from thoughtlens.core import ConfigError, DataError, NotThereError, OccupiedError, ResourceError, held
from thoughtlens.ops.hub.manifest import FILE, Manifest

EXPLICIT = ("/", "./", "../", "~", "file://")
"""What a directory's name begins with, so that it is not taken for owner/name on the hub."""
FAILURES: tuple[type[Exception], ...] = (HfHubHTTPError, OSError, *HfHubHTTPError.__bases__)
"""With those of the HTTP library under the installed huggingface_hub, which changes between its versions."""
COPY = ".copy-"
BARE = {".gitattributes", "README.md"}
"""Files of a hub repository that holds nothing yet."""


class Folder:
    """A directory."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, str(root)

    def manifest(self) -> Path:
        """Its list of files."""
        file = self.root / FILE
        if not file.is_file() or file.is_symlink():
            raise NotThereError(f"Expected something that thoughtlens pushed at {self.root}, found no {FILE}")
        return file

    def get(self, manifest: Manifest, target: Path) -> None:
        """Copy the files of the manifest."""
        for name, expected in manifest.files.items():
            source = self.root / name
            if source.resolve() != self.root.resolve() / name:
                raise DataError(f"Refusing {source}: it is a link, or lies behind one")
            if not source.is_file():
                raise NotThereError(f"{FILE} in {self.root} lists {name}, which is not there; push it again")
            if (
                source.stat().st_size == expected.bytes
            ):  # what has another size is named when all are compared
                _copy(source, target / name)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new directory beside it, which `put` puts in its place."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with temporary(self.root) as folder:
            yield folder

    def check(self, update: bool) -> None:
        """See that nothing of others would be lost."""
        if not self.root.exists() or (self.root.is_dir() and not any(self.root.iterdir())):
            return
        ours = self.root.is_dir() and (self.root / FILE).is_file()
        if not (update and ours):
            what = "an earlier push; --update replaces it" if ours else "something but no push"
            raise OccupiedError(f"Expected nothing at {self.root}, found {what}")

    def put(self, staged: Path, private: bool, update: bool) -> str:
        """Make the staged files its content."""
        old = staged.with_name(staged.name + ".old")
        if self.root.exists():
            os.rename(self.root, old)
        os.rename(staged, self.root)
        shutil.rmtree(old, ignore_errors=True)
        return str(self.root)


class Hub:
    """A model repository on the Hugging Face hub, or whatever HF_ENDPOINT names."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision
        self.api = huggingface_hub.HfApi()

    def manifest(self) -> Path:
        """Its list of files, from one commit, which the other files then come from too."""
        with self._spoken("give"):
            try:
                file = Path(huggingface_hub.hf_hub_download(self.name, FILE, revision=self.revision))
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError):
                    raise
                raise NotThereError(
                    f"{self.name} holds no {FILE}, so thoughtlens has not pushed it. Other libraries' SAEs: "
                    f"download them (hf download {self.name}) and give the directory"
                ) from None
        self.revision = file.parent.name
        return file

    def get(self, manifest: Manifest, target: Path) -> None:
        """Download the files of the manifest."""
        names = sorted(manifest.files)
        with self._spoken("give"):
            found = huggingface_hub.snapshot_download(self.name, revision=self.revision, allow_patterns=names)
        for name in names:
            if not (Path(found) / name).is_file():
                raise NotThereError(f"{FILE} of {self.name} lists {name}, which is not there; push it again")
            _copy(Path(found) / name, target / name)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary directory."""
        with temporary(Path(tempfile.gettempdir()) / "thoughtlens-push") as folder:
            yield folder

    def check(self, update: bool) -> None:
        """See that nothing of others would be replaced."""
        with self._spoken("show"):
            try:
                files = set(self.api.list_repo_files(self.name, revision=self.revision))
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return
        if files - BARE and not (update and FILE in files):
            hint = "; --update replaces them, in a new commit" if FILE in files else ""
            raise OccupiedError(f"{self.name} holds {len(files)} files already{hint}")

    def put(self, staged: Path, private: bool, update: bool) -> str:
        """Upload the staged files as one commit."""
        with self._spoken("take"):
            self.api.create_repo(self.name, private=private, exist_ok=True)
            if self.revision is not None:
                self.api.create_branch(self.name, branch=self.revision, exist_ok=True)
            done = self.api.upload_folder(
                repo_id=self.name,
                folder_path=staged,
                revision=self.revision,
                commit_message="thoughtlens push",
                delete_patterns=["*"] if update else None,
            )
        return str(done.commit_url)

    @contextmanager
    def _spoken(self, what: str) -> Iterator[None]:
        """The hub's refusals in one line."""
        try:
            yield
        except (NotThereError, OccupiedError):
            raise
        except HFValidationError as error:
            raise ConfigError(f"{self.name!r} is not owner/name on the hub: {_first(error)}") from None
        except FAILURES as error:
            raise ResourceError(
                f"The hub did not {what} {self.name} ({type(error).__name__}: {_first(error)}). Look at the "
                f"name, log in with: hf auth login, see that HF_HUB_OFFLINE is not set; or use a directory"
            ) from None


def place_of(repo: str, revision: str | None = None) -> Folder | Hub:
    """What a name stands for: a directory where it begins with / ./ ../ ~ or file://, or where one is there;
    else a repository on the hub.

    Raises:
        ConfigError: neither, or a revision of a directory.
    """
    if repo.startswith(EXPLICIT) or repo in (".", "..") or Path(repo).is_dir():
        if revision is not None:
            raise ConfigError(f"revision={revision!r} is only for the hub, and {repo} is a directory")
        return Folder(Path(repo.removeprefix("file://")).expanduser())
    if repo.count("/") != 1:
        raise ConfigError(f"Expected owner/name on the hub, or a directory such as ./{repo}, got {repo!r}")
    return Hub(repo, revision)


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, gone after the block unless renamed; what kills left goes too."""
    copies, parent = f"{glob.escape(target.name)}{COPY}*", target.parent
    locked = [lock.with_name(lock.name[1:].removesuffix(".lock")) for lock in parent.glob(f".{copies}.lock")]
    for left in {*parent.glob(copies), *locked}:
        with suppress(OSError, OccupiedError), held(left):
            if left.suffix == ".old" and not target.exists():
                os.rename(left, target)  # killed between the two renames that put another in its place
            else:
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=target.name + COPY, suffix=".tmp", dir=target.parent))
    folder.chmod(0o755)
    try:
        with held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
