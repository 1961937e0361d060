"""hardneg-mine: write the nearest other reports of every training report as a table."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import hardneg_plugin
from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import print_counts, print_hardest
from hardneg_plugin.apps.shared.unfinished_mining import unfinished_mining
from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.fingerprint import fingerprint
from hardneg_plugin.data.studies import Studies, StudySource
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place
from hardneg_plugin.models.run_embedder import RunEmbedder
from hardneg_plugin.neighbours.approximate import ApproximateSearch
from hardneg_plugin.neighbours.candidates import KINDS
from hardneg_plugin.neighbours.embedders import Embedder, embed, without_direction
from hardneg_plugin.neighbours.embedding_files import embed_in_files
from hardneg_plugin.neighbours.faiss_search import FaissSearch, import_faiss
from hardneg_plugin.neighbours.groups import ExcludedCounts, count_excluded, groups_of
from hardneg_plugin.neighbours.ithn_annotation import write_ithn_annotation
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule, Neighbours, Search
from hardneg_plugin.neighbours.table import write_neighbours
from hardneg_plugin.progress import progress
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.terminal import say

EXACT: Mapping[str, Callable[[int], Search]] = {"torch": ChunkedSearch, "faiss": FaissSearch}
HARDEST = 10
_log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of hardneg-mine."""
    commands.mine()


def mine(config: DictConfig) -> None:
    """Write the table, and ITHN's annotation if wanted; print what was excluded and the hardest pairs."""
    _check(config)
    source = _source_of(config)
    studies = source.split("train")
    if len(studies) < 2:
        raise UserError(f"data: expected at least two training studies to choose from, but got {len(studies)}.")
    if config.backend in EXACT:
        _mine(config, source, studies, EXACT[config.backend](config.chunk), None)
        return
    import_faiss(config.backend)
    with unfinished_mining(Path(config.output), _made_from(config, source)) as folder:
        search = ApproximateSearch(config.backend, folder, config.effort, config.chunk)
        _mine(config, source, studies, search, folder)


def _mine(config: DictConfig, source: StudySource, studies: Studies, search: Search, folder: Path | None) -> None:
    """Write and print.

    Args:
        config: of the command.
        source: of the studies.
        studies: the training split.
        search: finds neighbours.
        folder: for the parts of an approximate mining.
    """
    ids, reports = studies.ids, studies.reports
    labels = studies.labels if config.labels == "exclude" else None
    rule = NeighbourRule(groups_of(reports, studies.patients, labels), ceiling=config.ceiling, k=config.k)
    started = time.perf_counter()
    embedder = _embedder_of(config)
    if folder is None:
        embeddings = embed(embedder, reports)
    else:
        embeddings = embed_in_files(embedder, reports, folder, track=lambda parts: progress(parts, "embedding reports"))
    left_out = without_direction(embeddings)
    rule = replace(rule, left_out=left_out)
    embedded = time.perf_counter()
    nearest = search(embeddings, rule, track=lambda chunks: progress(chunks, "comparing reports"))
    seconds = {"embedding": embedded - started, "search": time.perf_counter() - embedded}
    above = f"cosine above {config.ceiling}" + ("" if folder is None else ", at least")
    excluded = {
        **count_excluded(rule.groups),
        above: ExcludedCounts(int(nearest.above.sum()), nearest.pairs_above),
    }
    neighbours = [[ids[j] for j in row if j >= 0] for row in nearest.index.tolist()]
    if not any(neighbours):
        raise UserError(
            f"Expected neighbours, but there is nothing to mine: each of {len(ids)} studies matches all others, or the embeddings "
            "are NaN. Try labels=ignore or a higher ceiling."
        )
    if left_out.any():
        _log.warning(
            "Warning: %d of %d reports, such as that of %r, have an embedding that is not finite or of length zero: they are no "
            "neighbours, and have none. Look whether they are empty.",
            left_out.sum(),
            len(ids),
            ids[int(left_out.argmax())],
        )
    scores = [row[: len(names)] for row, names in zip(nearest.scores.tolist(), neighbours, strict=True)]
    metadata = {
        "settings": OmegaConf.to_container(config, resolve=False),
        "studies": len(ids),
        "neighbours": _filled(nearest),
        "excluded": {reason: vars(count) for reason, count in excluded.items()},
        "seconds": seconds,
    }
    output = Path(config.output)
    write_neighbours(output, ids, neighbours, scores, metadata)
    print_counts(f"{len(ids)} training studies", len(ids), excluded, _filled(nearest))
    print_hardest(_hardest(nearest), ids, reports)
    say(f"\nembedded in {seconds['embedding']:.1f} s, searched in {seconds['search']:.1f} s\ntable    {output}")
    if config.ithn_annotation is not None:
        path, annotation = Path(config.ithn_annotation), cast(AnnotatedStudies, source).annotation
        left = write_ithn_annotation(path, annotation, dict(zip(ids, neighbours, strict=True)))
        say(f"released {path}" + (f", in which {left} training studies have no negative" if left else ""))
    say(f"Train with it: {_training(config, output)}")


def _check(config: DictConfig) -> None:
    """Raise a UserError for wrong settings before the work begins."""
    if Path(config.output).suffix != ".parquet":
        raise UserError(f"output: expected the name of a .parquet file, but got {config.output}.")
    for key, values in (("labels", ("exclude", "ignore")), ("backend", (*EXACT, *KINDS))):
        if config[key] not in values:
            raise UserError(f"{key}: expected {' or '.join(values)}, but got {config[key]!r}.")
    check_place(Path(config.output), "output")
    if config.ithn_annotation is not None:
        check_place(Path(config.ithn_annotation), "ithn_annotation")


def _made_from(config: DictConfig, source: StudySource) -> dict[str, Any]:
    """What the parts of an approximate mining follow from: settings, studies, and the version that wrote them."""
    embedder = {
        f"embedder.{key}": value
        for key, value in cast(dict[str, Any], OmegaConf.to_container(config.embedder)).items()
        if key not in ("batch_size", "device")
    }
    settings = {key: config[key] for key in ("backend", "k", "ceiling", "labels", "effort")}
    version = hardneg_plugin.__version__
    return {**settings, **embedder, "reports": fingerprint(source)["sha256"], "hardneg-plugin": version}


def _training(config: DictConfig, table: Path) -> str:
    """The command that trains with the table, on the same data."""
    chosen = [word for word in HydraConfig.get().overrides.task if re.match(r"\+*data(=|\.(?!root=))", word)]
    root = {"data__root": str(config.data.root)} if config.data.get("root") is not None else {}
    return command_line("hardneg-train", *chosen, "negatives=bank", **root, negatives__table=table)


def _source_of(config: DictConfig) -> StudySource:
    settings = config.data.datamodule.source
    # reports are mined without their images, which may be missing
    without_images = {"check": "none"} if settings.get("check") in ("decode", "stat") else {}
    source: StudySource = instantiate(settings, **without_images)
    if config.ithn_annotation is not None and not isinstance(source, AnnotatedStudies):
        raise UserError("ithn_annotation: expected data=annotations, since only its studies have images by path.")
    return source


def _embedder_of(config: DictConfig) -> Embedder:
    embedder: Embedder | RunEmbedder = instantiate(config.embedder)
    return embedder.load(trust=config.trust) if isinstance(embedder, RunEmbedder) else embedder


def _filled(nearest: Neighbours) -> dict[str, int]:
    """The numbers of studies with k neighbours, fewer, and none."""
    found = (nearest.index >= 0).sum(axis=1)
    k = nearest.index.shape[1]
    return {
        f"all {k}": int((found == k).sum()),
        "fewer": int(((found > 0) & (found < k)).sum()),
        "no": int((found == 0).sum()),
    }


def _hardest(nearest: Neighbours) -> list[tuple[float, int, int]]:
    """The most similar pairs that were kept, each once: cosine and the two studies."""
    has_one = np.flatnonzero(nearest.index[:, 0] >= 0)
    order = has_one[np.argsort(-nearest.scores[has_one, 0], kind="stable")]
    pairs: dict[tuple[int, int], float] = {}
    for study in order.tolist():
        other = int(nearest.index[study, 0])
        pairs.setdefault((min(study, other), max(study, other)), float(nearest.scores[study, 0]))
        if len(pairs) == HARDEST:
            break
    return [(score, *pair) for pair, score in pairs.items()]


if __name__ == "__main__":
    main()
