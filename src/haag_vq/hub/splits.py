"""Which files of a repository are a split: what `datasets` makes of its card and file names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from haag_vq.errors import DataError, UsageError

CARD = "README.md"


def names_of_split(
    repo: str, names: Iterable[str], card: bytes | None, config: str | None, split: str | None
) -> list[str]:
    """Ask `datasets` for the files of a split, in its order.

    It is shown a directory of empty files of these names, with the card: so it asks the Hub for
    nothing, retries nothing, runs no code, and finds the same online and offline.

    Raises
    ------
    UsageError
        If config or split is unknown or must be chosen; the choices are named.
    DataError
        If the card is not readable, or names files elsewhere.
    """
    import datasets  # a second and 60 MiB (measured)

    with tempfile.TemporaryDirectory(prefix="haag-vq-") as made:
        # `datasets` gives resolved paths.
        root = Path(os.path.realpath(made))
        _lay_out(root / "repo", names, card)
        try:
            chosen = _config(repo, datasets.get_dataset_config_names(str(root / "repo")), config)
            builder = datasets.load_dataset_builder(
                str(root / "repo"), chosen, cache_dir=str(root / "cache")
            )
        except UsageError:
            raise
        except FileNotFoundError as error:
            raise UsageError(
                f"{repo}: `datasets` finds no data files there by its card and their names "
                f"({_first_line(error)}). Name the files: hf://datasets/{repo}/PATTERN, as "
                "…/*.npy."
            ) from None
        except Exception as error:
            raise DataError(
                f"{repo}: `datasets` cannot tell its splits ({type(error).__name__}: "
                f"{_first_line(error)}). Name the files: hf://datasets/{repo}/PATTERN."
            ) from None
        splits = {
            str(name): [str(file) for file in files]
            for name, files in (builder.config.data_files or {}).items()
        }
        return _inside(repo, root / "repo", splits[_split(repo, splits, split)])


def _lay_out(root: Path, names: Iterable[str], card: bytes | None) -> None:
    root.mkdir()
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if card is not None:
        (root / CARD).write_bytes(card)


def _config(repo: str, configs: list[str], config: str | None) -> str | None:
    if config is not None and config not in configs:
        problem = f"has no configuration {config!r}"
    elif config is None and len(configs) > 1 and "default" not in configs:
        problem = "needs a configuration"
    else:
        return config
    raise UsageError(
        f"{repo} {problem}: there are {', '.join(configs) or 'none'}. Choose one with config= "
        "(--config)."
    )


def _split(repo: str, splits: Iterable[str], split: str | None) -> str:
    """Return the split asked for; by default ``train``, or the only one."""
    known = list(splits)
    if split is None and ("train" in known or len(known) == 1):
        return "train" if "train" in known else known[0]
    if split in known:
        return str(split)
    problem = "needs a split" if split is None else f"has no split {split!r}"
    raise UsageError(
        f"{repo} {problem}: there are {', '.join(known) or 'none'}. Choose one with split= "
        "(--split)."
    )


def _inside(repo: str, root: Path, files: list[str]) -> list[str]:
    """Names in the repository; DataError for files that the card has from elsewhere."""
    start = f"{root}{os.sep}"
    foreign = [file for file in files if not file.startswith(start)]
    if foreign:
        raise DataError(
            f"{repo} takes files from outside of the repository: {foreign[:3]}. Only files of the "
            "repository itself are read."
        )
    return [Path(file).relative_to(root).as_posix() for file in files]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
