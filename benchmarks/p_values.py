"""How often two variants that do not differ look different: by swapping results of studies, and by resampling studies and seeds.

    python benchmarks/p_values.py

Scores of N studies are normal. What a training adds by luck is drawn for each training, as a share of the standard error that the
studies give to a difference between two trainings.
"""

import argparse

import numpy as np

from hardneg_plugin.metrics.significance import compare
from hardneg_plugin.metrics.statistics import means


def main() -> None:
    """Print a table: the share of comparisons with p < .05."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=400)
    arguments = parser.parse_args()
    print("| seeds | luck of a training | swaps of studies | studies and seeds |\n|---|---|---|---|")
    for seeds in (1, 3, 5, 10):
        for luck in (0.0, 1.0, 3.0):
            rng = np.random.default_rng((seeds, round(luck)))
            found = [
                small_p_values(rng, seeds, luck, arguments.studies, arguments.resamples)
                for _ in range(arguments.comparisons)
            ]
            swaps, both = np.mean(found, axis=0)
            print(f"| {seeds} | {luck:.0f} | {swaps:.3f} | {both:.3f} |", flush=True)


def small_p_values(
    rng: np.random.Generator, seeds: int, luck: float, studies: int, resamples: int
) -> tuple[bool, bool]:
    """Whether p < .05 for two variants of equal quality, by swaps and by `compare`.

    Args:
        rng: draws scores and luck.
        seeds: trainings of each variant.
        luck: standard deviation of what a training adds, in standard errors.
        studies: N.
        resamples: draws of either test.
    """
    error = np.sqrt(2 / studies)
    ours, theirs = (rng.normal(0, 1, (seeds, studies)) + rng.normal(0, luck * error, (seeds, 1)) for _ in range(2))
    differences = (ours - theirs).mean(0)
    signs = rng.choice([-1.0, 1.0], size=(resamples, studies))
    as_large = int((np.abs(signs @ differences) >= abs(differences.sum())).sum())
    found = compare(*([[means({"x": row})] for row in of] for of in (ours, theirs)), resamples=resamples)["x"]
    return (1 + as_large) / (1 + resamples) < 0.05, found.p_value < 0.05


if __name__ == "__main__":
    main()
