"""Work that is finished part by part, so that a killed stage goes on after the last whole part.

A part is finished when its `NAME.json` is there, which is written last. `run_stage` removes the folder when
the stage's result is on disk, so that a kill during the clean-up loses nothing.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from thoughtlens.core.records.files import read_json, whole, write_json
from thoughtlens.core.records.record import Json, Record

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "parts"
P = TypeVar("P")
R = TypeVar("R", bound=Record)
P = TypeVar("P")


class Parts:
    """The parts of one stage, in `TMP/parts`."""

    def __init__(self, tmp: Path) -> None:
        self.folder = tmp / FOLDER
        self.folder.mkdir(exist_ok=True)

    def path(self, part: object, name: str) -> Path:
        """Where a part keeps a file of its own."""
        return self.folder / f"{part}.{name}"

    def todo(self, parts: Iterable[P]) -> Iterator[P]:
        """The parts that are not finished yet."""
        return (part for part in parts if not self._done(part).is_file())

    def write_table(self, part: object, name: str, tables: pa.Table | Iterable[pa.Table]) -> None:
        """A part's table, whole or absent; given as several of one schema, it is never all in memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        several = iter([tables] if isinstance(tables, pa.Table) else tables)
        first: pa.Table = next(several)
        with (
            whole(self.path(part, f"{name}.parquet")) as file,
            pq.ParquetWriter(file, first.schema, compression="zstd") as writer,
        ):
            for table in itertools.chain([first], several):
                writer.write_table(table)

    def has_table(self, part: object, name: str) -> bool:
        """Whether a part's table was written already; the part itself may not be finished."""
        return self.path(part, f"{name}.parquet").is_file()

    def finish(self, part: object, summary: Json | Record) -> None:
        """Say that a part is finished; `summary` is what `summaries` gives back."""
        write_json(self._done(part), summary.to_json() if isinstance(summary, Record) else summary)

    def summary(self, part: object) -> Json:
        """What `finish` was given."""
        return read_json(self._done(part))

    def summaries(self, parts: Iterable[object], cls: type[R]) -> list[R]:
        """What `finish` was given for each part, as records."""
        return [cls.from_json(self.summary(part)) for part in parts]

    def join(self, parts: Iterable[object], name: str, file: Path, schema: pa.Schema | None = None) -> None:
        """The parts' tables in their order as one Parquet file, streamed; parts without one are left out.

        Args:
            parts: Whose tables.
            name: Name of the table.
            file: The file to make.
            schema: Of the file; needed where no part may have a table.
        """
        import pyarrow.parquet as pq

        files = [self.path(part, f"{name}.parquet") for part in parts]
        files = [one for one in files if one.is_file()]
        if schema is None:
            schema = pq.read_schema(files[0])
        if len(files) == 1 and pq.read_schema(files[0]).equals(schema):
            shutil.copyfile(files[0], file)
            return
        with whole(file) as target, pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for one in files:
                with pq.ParquetFile(one) as table:
                    for i in range(table.num_row_groups):
                        writer.write_table(table.read_row_group(i).cast(schema))

    def _done(self, part: object) -> Path:
        return self.folder / f"{part}.json"
