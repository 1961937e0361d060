"""The model card of a generator: what it is, what it was trained on, what it scored, and what it is not for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.files import read_json
from hardneg_plugin.metrics.directions import with_direction
from hardneg_plugin.metrics.score_names import OF_ALIGNMENT
from hardneg_plugin.objectives.method_in_words import method_in_words
from hardneg_plugin.runs.checkpoint import Moment, moment_of
from hardneg_plugin.runs.inference_model import InferenceModel
from hardneg_plugin.runs.provenance import DISTRIBUTION, command_without_secrets, provenance

TAGS = ("radiology", "chest-x-ray", "radiology-report-generation", "medical", "hard-negatives", "pytorch")
DATA = {
    "PhantomStudies": "synthetic radiographs and reports that come with hardneg_plugin (data=phantom)",
    "PreparedStudies": "a data set prepared by hardneg-prepare",
    "AnnotatedStudies": "a data set in R2Gen's layout",
}
"""By the class that reads them."""
OF_THE_HUB = {"METEOR": "meteor", "ROUGE-L": "rouge", "CIDEr": "cider", **{f"BLEU-{n}": "bleu" for n in (1, 2, 3, 4)}}
"""Scores that the hub has a name for."""
HEADLINE = (
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
    "CIDEr",
    "findings_F1",
    "findings_attributes_F1",
    "informativeness",
    "specificity",
)
"""Scores that the hub shows beside the model."""
BASELINES = "most frequent report", "report of the most similar image"

_USE = """## How to use it

```python
from hardneg_plugin import ReportGenerator

model = ReportGenerator.from_pretrained("{name}")
print(model.generate("chest.png")[0].text)  # PNG, JPEG or DICOM; a list of lists for studies of several views
```
"""
_LIMITS = """## Intended use and limits

For research on report generation. It is no medical device: nobody should base a decision about a patient on what it writes.

- Its reports can leave out findings, state findings that are not there, and sound certain in both cases.
- It knows the population, machines, views and phrases of its training data only; elsewhere its scores do not hold.
- It reads the images of one examination: no history, no earlier examination, no question of the referring physician.
- Scores of text compare words with one reference; scores of findings depend on the rules that read them out of texts.
"""
_NO_LICENCE = (
    "Not stated. Weights that were trained on data with an agreement, such as MIMIC-CXR, may be shared only as the agreement "
    "allows."
)


def card_of_run(loaded: InferenceModel, *, name: str, license: str | None, is_scored: bool) -> str:
    """The card of the model of a run.

    Args:
        loaded: the model and its run.
        name: of the model.
        license: identifier of the hub; None: none is stated.
        is_scored: whether its weights are those of the checkpoint. False: it was trained further.

    Raises:
        UserError: a file of the run cannot be read.
    """
    metrics = _read_metrics(loaded)
    moment = moment_of(loaded.checkpoint)
    scores, why_not = _scores(metrics, moment, loaded, is_scored)
    parts = [
        _front_matter(name, license, loaded.config, scores),
        f"# {name}\n",
        "Writes radiology reports for chest X-rays. Trained and exported by `hardneg_plugin`.\n",
        _USE.format(name=name),
        _table("Model", _model_rows(loaded, moment, metrics)),
        _table("Data", _data_rows(loaded.config, metrics)),
        "## Scores\n",
        _score_table(scores, metrics, loaded) if scores else f"{why_not}\n",
        _LIMITS,
        f"## Licence\n\n{license or _NO_LICENCE}\n",
        _table("Provenance", _provenance_rows(loaded, metrics)),
    ]
    return "\n".join(parts)


def card_without_scores(name: str, license: str | None) -> str:
    """The card of a model whose weights are not those that were scored.

    Args:
        name, license: as of `card_of_run`.
    """
    told = "The weights were changed after the scores of their first card were computed, so it has none of them."
    parts = [
        _front_matter(name, license, None, {}),
        f"# {name}\n",
        _USE.format(name=name),
        f"## Scores\n\n{told}\n",
        _LIMITS,
    ]
    return "\n".join([*parts, f"## Licence\n\n{license or _NO_LICENCE}\n"])


def card_under_licence(card: str, license: str) -> str:
    """A card that another licence is stated in.

    Args:
        card: text with front matter.
        license: identifier of the hub.
    """
    from huggingface_hub import ModelCard

    changed: Any = ModelCard(card, ignore_metadata_errors=True)
    changed.data.license, changed.data.license_name = license, None
    changed.text = changed.text.replace(f"## Licence\n\n{_NO_LICENCE}", f"## Licence\n\n{license}")
    return str(changed)


def _read_metrics(loaded: InferenceModel) -> dict[str, Any]:
    """Of a finished run; empty for one that is not finished."""
    content = read_json(loaded.run.metrics, "scores") if loaded.run.metrics.is_file() else {}
    return content if isinstance(content, dict) else {}


def _scores(
    metrics: Mapping[str, Any], moment: Moment, loaded: InferenceModel, is_scored: bool
) -> tuple[dict[str, float], str]:
    """The scores of the test split by this checkpoint; or none, and why."""
    if not metrics:
        return {}, "None: the run was not finished when this card was written."
    if not is_scored:
        return {}, "None: the weights were changed after they were scored."
    chosen = "best.ckpt" if metrics.get("checkpoint") else "last.ckpt"
    stage = metrics.get("selected_by" if chosen == "best.ckpt" else "training") or {}
    if loaded.checkpoint.name != chosen or stage.get("step", stage.get("steps")) != moment.step:
        return {}, f"None: the run scored its {chosen} only, and these weights are those of {loaded.checkpoint.name}."
    scores = metrics.get("test")
    if not isinstance(scores, dict) or not scores:
        return {}, "None: the run has no scores of a test split."
    # those of embeddings need the objective, which the model of the card does not have
    return {
        name: float(value) for name, value in scores.items() if not name.startswith("cut/") and name not in OF_ALIGNMENT
    }, ""


def _front_matter(name: str, license: str | None, config: DictConfig | None, scores: Mapping[str, float]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-to-text",
            task_name="Radiology report generation",
            dataset_type=_source(config)[1].lower(),
            dataset_name=_source(config)[0],
            dataset_split="test",
            metric_type=OF_THE_HUB.get(score, score),
            metric_name=score,
            metric_value=round(value, 4),
        )
        for score, value in scores.items()
        if score in HEADLINE
    ]
    data = ModelCardData(
        library_name=DISTRIBUTION,
        pipeline_tag="image-to-text",
        tags=list(TAGS),
        metrics=sorted({OF_THE_HUB[score] for score in scores if score in HEADLINE and score in OF_THE_HUB}) or None,
        model_name=name,
        eval_results=results or None,
        license=license or "other",
        license_name=None if license else "not-stated",
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _source(config: DictConfig | None) -> tuple[str, str]:
    """What the data are in words, and the class that reads them."""
    target = str(OmegaConf.select(config, "data.datamodule.source._target_", default="")) if config else ""
    kind = target.rpartition(".")[2]
    regime = OmegaConf.select(config, "data.datamodule.source.regime", default=None) if config else None
    return DATA.get(kind, f"studies of {kind}") + (f", regime {regime}" if regime else ""), kind


def _model_rows(loaded: InferenceModel, moment: Moment, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, config = loaded.model, loaded.config
    weights = sum(value.numel() for value in model.parameters())
    yield "report decoder", f"{type(model.decoder).__name__}, {model.decoder.vocab_size:,} tokens"
    yield "visual extractor", str(config.model.visual.get("name", config.model.visual.get("_target_")))
    yield "parameters", f"{weights:,}, those of training only left out"
    yield "method", _method(config)
    yield "images", f"gray, resized to {loaded.image_size} x {loaded.image_size} pixels"
    usual = {**vars(Decoding()), "beam_size": None, "max_length": None}
    yield "decoding", ", ".join(f"{key} {value}" for key, value in vars(model.decoding).items() if value != usual[key])
    yield "checkpoint", f"{loaded.checkpoint.name}, epoch {moment.epoch}, after {moment.step:,} steps"
    if loaded.checkpoint.name == "best.ckpt" and isinstance(chosen := metrics.get("selected_by"), dict):
        yield "chosen by", f"{chosen.get('monitor')} ({chosen.get('mode')}) on the validation split"


def _method(config: DictConfig) -> str:
    part = config.model.get("hard_negatives")
    if part is None:
        return method_in_words(None)
    try:
        # of any widths: only what it consists of is read
        return method_in_words(instantiate(part)(image_width=8, report_width=8))
    except Exception:  # it may read tables that are elsewhere
        return f"{str(part.get('_target_')).rpartition('.')[2]}, whose files are not where this card was written"


def _data_rows(config: DictConfig, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "source", _source(config)[0]
    data = (metrics.get("provenance") or {}).get("data") or {}
    if studies := data.get("studies"):
        yield "studies", ", ".join(f"{count:,} {split}" for split, count in studies.items())
        yield "SHA-256 of the studies", f"`{data.get('sha256')}`"


def _score_table(scores: Mapping[str, float], metrics: Mapping[str, Any], loaded: InferenceModel) -> str:
    file = loaded.run.predictions("test")
    studies = f" over {sum(1 for _ in file.open('rb')):,} studies" if file.is_file() else ""
    ends = (metrics.get("intervals") or {}).get("test") or {}
    given = metrics.get("baselines") or {}
    baselines = [name for name in BASELINES if isinstance(given.get(name), dict)]
    head = ["score", "model", "95 % interval", *baselines]
    rows = [
        [
            with_direction(score),
            f"{value:.3f}",
            "{:.3f} to {:.3f}".format(*ends[score]) if score in ends else "",
            *(f"{given[name][score]:.3f}" if score in given[name] else "" for name in baselines),
        ]
        for score, value in scores.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    told = f"Of the test split{studies}; intervals by a bootstrap over studies"
    compared = "; beside two reports that no model wrote" if baselines else ""
    return "\n".join([f"{told}{compared}.\n", *lines, ""])


def _provenance_rows(loaded: InferenceModel, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    origin = metrics.get("provenance") or {}
    overrides = [_without_folders(override) for override in loaded.run.read_overrides()]
    yield "command", f"`{command_without_secrets('hardneg-train', overrides)}`"
    yield "device", str(origin.get("device", "not known"))
    yield "trained with", f"{DISTRIBUTION} {origin.get('version', '?')}, commit {origin.get('commit')}"
    packages = metrics.get("versions") or {}
    if packages:
        yield (
            "packages",
            ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "transformers") if name in packages),
        )
    yield "exported with", f"{DISTRIBUTION} {provenance({})['version']}"


def _without_folders(override: str) -> str:
    """An override whose path keeps its last name: where files are on a machine is nobody's business.

    >>> _without_folders("data.root=/home/someone/studies")
    'data.root=studies'
    """
    key, equals, value = override.partition("=")
    path = value.strip("'\"")
    return f"{key}{equals}{Path(path).name}" if re.match(r"/|~|[A-Za-z]:\\", path) else override


def _table(title: str, rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> str:
    lines = "\n".join(f"| {key} | {' '.join(value.split()).replace('|', chr(92) + '|')} |" for key, value in rows)
    return f"## {title}\n\n| | |\n| --- | --- |\n{lines}\n"
