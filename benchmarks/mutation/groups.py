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


def _plugin(*names: str) -> tuple[str, ...]:
    return tuple(f"{UNIT}/plugin/test_{name}.py" for name in names)


GROUPS = {
    "distributed": Group(
        ("distributed.py", "agreement.py"), (f"{UNIT}/test_distributed.py", f"{UNIT}/test_agreement.py")
    ),
    "decoding": Group(("backbones/decoding.py",), (f"{UNIT}/backbones/test_decoding.py",)),
    "functional": Group(
        ("functional/*.py",), (f"{UNIT}/functional", f"{UNIT}/objectives", "tests/reference/test_ithn_released.py")
    ),
    "objectives": Group(("objectives/**/*.py",), (f"{UNIT}/objectives",)),
    "plugged": Group(
        tuple(
            f"plugin/{name}.py"
            for name in (
                "host_state",
                "lightning_hosts",
                "mixin",
                "negatives_watch",
                "objective_checkpoint",
                "optimizer_group",
                "plug_in",
                "plugged",
                "signatures",
                "trainable",
                "undisturbed",
            )
        ),
        _plugin(
            "mixin",
            "training_progress",
            "plug_in",
            "read_again",
            "chunks",
            "checkpoints",
            "manual_optimisation",
            "optimizer_group",
            "negatives_watch",
            "lightning_hosts",
            "host_state",
            "signatures",
        ),
    ),
    "features": Group(
        ("plugin/feature*.py", "plugin/describe.py", "plugin/host_paths.py"),
        _plugin("feature", "feature_paths", "feature_pooling", "features_watch", "describe", "plug_in"),
    ),
    "parts": Group(
        tuple(
            f"plugin/{name}.py"
            for name in (
                "batch_parts",
                "chunks",
                "joined_features",
                "part_log",
                "rank_agreement",
                "read_again",
                "step_in_parts",
            )
        ),
        _plugin("batch_parts", "chunks", "joined_features", "part_log", "read_again", "rank_agreement"),
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
