"""Which tests tell whether a module is right: the fast ones, by groups of modules."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Modules with their tests.

    Args:
        modules: patterns below the package.
        tests: files and folders below the root; the modules' own examples are run too.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


UNIT = "tests/unit"


def _plugin(modules: str, tests: str) -> Group:
    """Modules of plugin/ and their tests, by names."""
    return Group(
        tuple(f"plugin/{name}.py" for name in modules.split()),
        tuple(f"{UNIT}/plugin/test_{name}.py" for name in tests.split()),
    )


GROUPS = {
    "distributed": Group(
        ("distributed.py", "agreement.py"), (f"{UNIT}/test_distributed.py", f"{UNIT}/test_agreement.py")
    ),
    "decoding": Group(
        ("backbones/decoding.py", "backbones/search.py", "backbones/leaving.py"),
        (f"{UNIT}/backbones/test_decoding.py", f"{UNIT}/backbones/test_leaving.py"),
    ),
    "functional": Group(
        tuple(
            f"functional/{name}.py"
            for name in ("hard_negatives", "hardening", "hardening_strategy", "likelihood", "losses")
        ),
        (f"{UNIT}/functional", f"{UNIT}/objectives", "tests/reference/test_ithn_released.py"),
    ),
    "parts": Group(
        tuple(
            f"functional/{name}.py"
            for name in ("entity_losses", "match_keys", "pooling", "region_weights", "unit_length", "word_region")
        ),
        (f"{UNIT}/functional",),
    ),
    "objectives": Group(("objectives/**/*.py",), (f"{UNIT}/objectives",)),
    "places": _plugin(
        "feature feature_paths feature_pooling features_watch host_paths",
        "feature feature_paths feature_pooling features_watch",
    ),
    "joined": _plugin("batch_parts joined_features part_log", "batch_parts joined_features part_log"),
    "hosts": _plugin(
        "host_state lightning_hosts negatives_watch optimizer_group signatures trainable",
        "host_state lightning_hosts negatives_watch optimizer_group signatures trainable",
    ),
    "looks": _plugin("describe undisturbed", "describe undisturbed"),
    "chunks": _plugin(
        "chunks rank_agreement read_again step_in_parts", "chunks rank_agreement read_again step_in_parts"
    ),
    "plugged": _plugin(
        "mixin objective_checkpoint plug_in plugged",
        "checkpoints manual_optimisation mixin objective_checkpoint plug_in plugged training_progress",
    ),
    "splits": Group(
        ("data/prepare/seeded_split.py", "data/leakage.py", "data/neighbour_batches.py", "data/same_files.py"),
        (
            f"{UNIT}/data/prepare/test_seeded_split.py",
            f"{UNIT}/data/test_leakage.py",
            f"{UNIT}/data/test_neighbour_batches.py",
        ),
    ),
}
