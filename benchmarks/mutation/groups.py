"""Which tests tell whether a module is right: the fast ones, by groups of modules."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Modules with their tests.

    Args:
        modules: patterns below the package.
        tests: files and folders below the root; the modules' own examples are run too.
        but: patterns of modules that are left out.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    but: tuple[str, ...] = ()


UNIT = "tests/unit"
GROUPS = {
    "distributed": Group(
        ("distributed.py", "agreement.py"), (f"{UNIT}/test_distributed.py", f"{UNIT}/test_agreement.py")
    ),
    "decoding": Group(("backbones/decoding.py",), (f"{UNIT}/backbones/test_decoding.py",)),
    "functional": Group(("functional/*.py",), (f"{UNIT}/functional", f"{UNIT}/objectives")),
    "objectives": Group(("objectives/**/*.py",), (f"{UNIT}/objectives",)),
    "plugin": Group(
        ("plugin/*.py",),
        tuple(
            f"{UNIT}/plugin/test_{name}.py"
            for name in (
                "batch_parts",
                "checkpoints",
                "chunks",
                "describe",
                "feature",
                "feature_paths",
                "feature_pooling",
                "lightning_hosts",
                "manual_optimisation",
                "mixin",
                "negatives_watch",
                "optimizer_group",
                "plug_in",
                "rank_agreement",
                "read_again",
            )
        ),
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
