"""Where the configs are, and how the Hydra app of another project gets those of an objective."""

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

GROUPS = (
    "alignment", "edit_margin", "hardening", "likelihood_margin", "negatives", "schedule", "separation", "token_weights",
)  # fmt: skip
"""The groups whose choices are arguments of an objective; all others are about our own trainer."""


def conf_dir() -> Path:
    """The folder of Hydra configs: inside the installed package, or beside `src` in a checkout."""
    package = Path(hardneg_plugin.__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def register_configs(under: str = "") -> None:
    """Offer the groups of an objective to the Hydra app of another project; call it before `hydra.main`.

        register_configs()                 # defaults: [hardening: arc], on the command line hardening=ascent
        register_configs(under="hardneg")  # defaults: [hardneg/hardening: arc], hardneg/hardening=ascent, config.hardneg.hardening

    The app's own configs win, group by group: an app with a learning-rate `schedule/` registers ours `under` another name.
    Nothing but `GROUPS` is offered, so `optimizer`, `trainer`, `data` and the like never collide. Which objective takes the
    choices is up to the app: it names `HardNegativeObjective` or one of its subclasses. With `negatives=paired` the app builds
    the batches that carry paired studies, and with `edit_margin=softplus` those that carry edited reports.

    Args:
        under: the group above ours, such as "hardneg"; empty: none.
    """
    _Groups.under = under
    Plugins.instance().register(_Groups)


class _Groups(SearchPathPlugin):  # type: ignore[misc]
    """Puts the groups into Hydra's store once Hydra knows where the app's own configs are.

    Our folder on the search path would bring all of our groups, and take precedence over the app's `hydra.searchpath`,
    `--config-dir` and store.
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
                config = config.get(group, config)  # of a global package only the group itself
                # Hydra takes an entry of the store for the schema of a file of that name that it finds later, and merges both.
                # With a defaults list it refuses to.
                store.store(
                    group=place, name=path.stem, node={"defaults": ["_self_"], **config}, provider="hardneg_plugin"
                )


def nothing() -> None:
    """What `hardening=none` and `separation=none` name: a config group must choose something."""
