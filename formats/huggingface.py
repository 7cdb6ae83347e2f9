"""A folder as the Hugging Face hub holds datasets, which `datasets.load_dataset(folder)` opens: Parquet files
`data/SPLIT-00000-of-00003.parquet`, and README.md, the dataset card, whose front matter says which file is of which
split. Without a split all rows are `train`, as there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from expkit.formats.parquet import ParquetFormat
from expkit.formats.protocol import Batch, Carries, ExportOptions, Head, Part, Recorded, Shards
from expkit.formats.several import Cutter, files_in, read_several

_SHARD = Shards(size=500_000_000)  # as `datasets` cuts them by itself


class HuggingFaceFormat:
    name = "huggingface"
    suffixes: tuple[str, ...] = ()
    about = "a folder for the Hugging Face hub"
    carries = Carries()
    compressions: tuple[str, ...] = ParquetFormat.compressions
    by_player = False
    card: dict[str, Any] | None

    def __init__(self) -> None:
        self._parquet = ParquetFormat()
        self.card = {}

    def export(self, batches: Iterator[Batch], head: Head, target: Path, options: ExportOptions) -> None:
        self.export_folder([Part("", head, batches)], target, options, Shards())

    def export_folder(self, parts: Sequence[Part], target: Path, options: ExportOptions, shards: Shards) -> None:
        (target / "data").mkdir(parents=True)
        names = [self._split(part, target / "data", options, shards or _SHARD) for part in parts]
        self.card = {
            "configs": [
                {
                    "config_name": "default",
                    "data_files": [{"split": name, "path": f"data/{name}-*"} for name in names],
                }
            ],
        }

    def _split(self, part: Part, folder: Path, options: ExportOptions, shards: Shards) -> str:
        """Write a part; returns what its split is called."""
        name = part.name or "train"
        cutter, files = Cutter(part.batches, shards), []
        for number in count():
            head = part.head if number == 0 else part.head.without_episodes()
            files.append(folder / f"{name}-{number:05d}.parquet")
            self._parquet.export(cutter.shard(files[-1]), head, files[-1], options)
            if not cutter.more():
                break
        for number, path in enumerate(files):  # only now it is known how many they are
            path.rename(folder / f"{name}-{number:05d}-of-{len(files):05d}.parquet")
        return name

    def recognises(self, source: Path) -> bool:
        return (source / "README.md").is_file() and any((source / "data").glob("*.parquet"))

    def import_(self, source: Path) -> Recorded:
        folder = source / "data" if (source / "data").is_dir() else source
        return read_several(self._parquet, files_in(folder, self._parquet.suffixes))
