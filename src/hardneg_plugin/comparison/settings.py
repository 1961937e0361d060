"""The settings of a comparison, and the overrides that they mean for hardneg-train."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.directions import direction_of
from hardneg_plugin.metrics.score_names import OF_TASKS, TASK_NAMES, WITH_INTERVAL

ALPHA = 0.05
"""Corrected p-values below are significant; intervals have the level 1 - ALPHA."""
RESERVED = {
    "seed": "Set compare.seeds.",
    "trust": "",
    "overwrite": "",
    "resume": "The same command again resumes by itself.",
}
"""Keys of hardneg-train that hardneg-compare sets itself, and what to do instead of setting them."""


@dataclass(frozen=True)
class ComparisonSettings:
    """The values of `compare` in conf/compare.yaml.

    Raises:
        UserError: a value is out of its range.
    """

    variants: list[str]
    seeds: list[int]
    baseline: str
    pairs: list[list[str]]
    folder: str
    jobs: int
    launcher: str | None
    measures: list[str]
    tasks: list[str]
    resamples: int
    page: int
    zoom: int | None
    partial: bool
    by_data: dict[str, list[str]]
    definitions: dict[str, list[str]]

    def __post_init__(self) -> None:
        for key, kind in (("variants", str), ("seeds", int), ("measures", str)):
            values: Any = getattr(self, key)
            if not _is_list_of(kind, values) or not values or len(set(values)) < len(values):
                raise UserError(
                    f"compare.{key}: expected a list without repetitions, such as compare.{key}=[{_EXAMPLES[key]}], "
                    f"but got {values}."
                )
        if not _is_list_of(str, self.tasks) or not set(self.tasks) <= set(TASK_NAMES):
            raise UserError(
                f"compare.tasks: expected some of {', '.join(TASK_NAMES)}, or none as [], but got {self.tasks}."
            )
        for key, least in (("jobs", 1), ("resamples", 1), ("page", 0)):
            number: Any = getattr(self, key)
            if not _is(int, number) or number < least:
                kind_of_number = "a positive integer" if least else "an integer >= 0"
                raise UserError(f"compare.{key}: expected {kind_of_number}, but got {number!r}.")
        if self.zoom is not None and (not _is(int, self.zoom) or self.zoom < 1):
            raise UserError(f"compare.zoom: expected a positive integer or null, but got {self.zoom!r}.")
        if not isinstance(self.partial, bool):
            raise UserError(f"compare.partial: expected true or false, but got {self.partial!r}.")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise UserError(f"compare.seeds: expected integers from 0 to {2**32 - 1}, but got {seed}.")
        if self.baseline not in self.variants:
            raise UserError(
                f"compare.baseline: expected one of compare.variants=[{','.join(self.variants)}], but got "
                f"{self.baseline}. Add it to them, or name another."
            )
        if not isinstance(self.pairs, list) or not all(self._is_pair(pair) for pair in self.pairs):
            raise UserError(
                "compare.pairs: expected pairs of different names of compare.variants without the baseline, such as [[arc,mined]], "
                f"but got {self.pairs}."
            )
        if len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise UserError(f"compare.pairs: expected each pair once, but got {self.pairs}.")
        for name in self.measures:
            if (name in WITH_INTERVAL or OF_TASKS.fullmatch(name)) and direction_of(name) != "higher":
                raise UserError(f"compare.measures: expected scores of which higher is better, but got {name}.")
            if name not in WITH_INTERVAL and not OF_TASKS.fullmatch(name):
                raise UserError(
                    f"compare.measures: expected scores that have an interval, but got {name}. There are: "
                    f"{', '.join(sorted(name for name in WITH_INTERVAL if direction_of(name) == 'higher'))}."
                )
        comparisons = (len(self.variants) - 1 + len(self.pairs)) * len(self.measures)
        if comparisons / (self.resamples + 1) >= ALPHA:
            raise UserError(
                f"compare.resamples: with {self.resamples} no difference could be found among {comparisons} comparisons: set at "
                f"least {round(comparisons / ALPHA)}."
            )
        for name, overrides in self.definitions.items():
            if not re.fullmatch(r"\w[\w.-]*", name) or not _is_list_of(str, overrides):
                raise UserError(
                    f"compare.definitions.{name}: expected a name of letters, digits, _, - and ., and a list of overrides of "
                    f"hardneg-train, such as '+compare.definitions.mine=[\"hardening.steps=3\"]', but got {overrides!r}."
                )
        for data, overrides in self.by_data.items():
            if not _is_list_of(str, overrides):
                raise UserError(
                    f"compare.by_data.{data}: expected a list of overrides of hardneg-train, such as [data.regime=clinic], but "
                    f"got {overrides!r}."
                )

    def _is_pair(self, pair: object) -> bool:
        others = {name for name in self.variants if name != self.baseline}
        return _is_list_of(str, pair) and isinstance(pair, list) and len(pair) == len(set(pair) & others) == 2

    @property
    def path(self) -> Path:
        """The folder of the comparison, absolute."""
        return Path(self.folder).absolute()


_EXAMPLES = {"variants": "host,arc", "seeds": "1,2,3", "measures": "specificity"}


def overrides_of_variants(settings: ComparisonSettings, shared: list[str]) -> dict[str, list[str]]:
    """The overrides of hardneg-train for each variant, without the seed: first those of all runs, then its own.

    Args:
        settings: name and define the variants.
        shared: overrides for all runs, from the command line.

    Raises:
        UserError: a variant is not defined; or an override cannot be parsed, is reserved, or contradicts a variant.
    """
    keys = {_key(text): text for text in shared}
    found = {}
    for name in settings.variants:
        if name not in settings.definitions:
            near = difflib.get_close_matches(name, settings.definitions, n=1)
            raise UserError(
                f"compare.variants: {name} is not defined{f'; did you mean {near[0]}?' if near else '.'} There are: "
                f"{', '.join(settings.definitions)}. Add your own: '+compare.definitions.{name}=[\"hardening.steps=3\"]'."
            )
        own = settings.definitions[name]
        for text in own:
            if _key(text) in keys:
                raise UserError(
                    f"{keys[_key(text)]} is for all runs, but the variant {name} sets {text}. Leave it out, or define a variant: "
                    f"'+compare.definitions.NAME=[\"{keys[_key(text)]}\"]'."
                )
        found[name] = [*shared, *own]
    return found


def with_overrides_of_data(settings: ComparisonSettings, data: str | None, overrides: list[str]) -> list[str]:
    """The overrides of a variant, and before them those of `compare.by_data` for its data set that it does not set itself.

    Args:
        settings: have `by_data`.
        data: the choice of the group `data` that `overrides` lead to.
        overrides: those of all runs, then those of the variant.
    """
    keys = {_key(text) for text in overrides}
    return [*(text for text in settings.by_data.get(data or "", []) if _key(text) not in keys), *overrides]


def _key(text: str) -> str:
    """The key that an override sets."""
    if text.startswith("-"):
        raise UserError(f"{text}: hardneg-compare does not take this option.")
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (HydraException, ValueError) as error:
        raise UserError(f"{text}: expected an override of hardneg-train ({str(error).splitlines()[0]}).") from error
    key = str(override.key_or_group)
    if override.is_sweep_override():
        raise UserError(f"{text}: expected one value. Several are variants: see compare.definitions.")
    if key in RESERVED or re.split(r"[./]", key)[0] == "hydra":
        raise UserError(f"{text}: hardneg-compare sets {key} itself. {RESERVED.get(key, 'Set compare.folder.')}")
    return key


def _is_list_of(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(_is(kind, value) for value in values)


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
