"""Where the configs are, how the Hydra app of another project gets at them, and what they need from Python."""

from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

import hardneg_plugin

GROUPS = ("alignment", "hardening", "negatives", "schedule", "separation")
"""The groups that make up an objective; all others are about our own trainer."""


def conf_dir() -> Path:
    """The folder of Hydra configs: inside the installed package, or beside `src` in a checkout."""
    package = Path(hardneg_plugin.__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def register_configs(under: str = "") -> None:
    """Offer the groups of an objective to the Hydra app of another project; call it before `hydra.main`.

        register_configs()                 # defaults: [hardening: arc], on the command line hardening=ascent
        register_configs(under="hardneg")  # defaults: [hardneg/hardening: arc], hardneg/hardening=ascent, config.hardneg.hardening

    The app's own configs win. A group that it has is its own as a whole: with a learning-rate `schedule/` of its own, ours is to
    be had `under` another name. Nothing but `GROUPS` is offered, so that `optimizer`, `trainer`, `data` and the like never meet.
    `negatives=paired` is the source alone, and batches that carry mined studies are the app's to make; `alignment=reclf` is its
    global contrast alone, and the rest is `RelationEnhancedObjective`, which the app names in place of `HardNegativeObjective`.

    Args:
        under: the group that ours are below, such as "hardneg"; empty: the root.
    """
    _Groups.under = under
    Plugins.instance().register(_Groups)


class _Groups(SearchPathPlugin):  # type: ignore[misc]
    """Puts the groups into Hydra's store once Hydra knows where the app's own configs are.

    Our folder on the search path would not do. It would bring all of our groups, and it would come before the app's
    `hydra.searchpath`, `--config-dir` and store, so that ours would win there.
    """

    under: ClassVar[str]

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        app = ConfigRepository(search_path)
        store = ConfigStore.instance()
        for group in GROUPS:
            place = f"{self.under}/{group}" if self.under else group
            if app.group_exists(place):
                continue
            for path in sorted((conf_dir() / group).glob("*.yaml")):
                if store.get_type(f"{place}/{path.name}") is not ObjectType.NOT_FOUND:
                    continue
                config: Any = OmegaConf.load(path)
                config = config.get(group, config)  # of a global package, what is not about our own trainer
                # Hydra takes an entry of the store for the schema of a file of that name on a path it learns of later, and merges
                # them. With a defaults list it refuses to.
                store.store(
                    group=place, name=path.stem, node={"defaults": ["_self_"], **config}, provider="hardneg_plugin"
                )


def nothing() -> None:
    """What `hardening=none` and `separation=none` name: a config group must choose something."""
