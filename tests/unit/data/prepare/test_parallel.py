import math
import os

import pytest

from hardneg_plugin.data.prepare.parallel import map_in_order
from hardneg_plugin.errors import UserError

pytestmark = pytest.mark.slow  # real processes


@pytest.mark.parametrize("workers", [0, 2])
def test_results_in_order_and_few_items_at_a_time(workers):
    taken = []

    def items():
        for i in range(30):
            taken.append(i)
            yield {"of": i * i}

    done = 0
    for item, result in map_in_order(math.isqrt, items(), workers, argument=lambda item: item["of"]):
        assert (item["of"], result) == (done**2, done)
        done += 1
        assert len(taken) - done < max(1, 2 * workers)
    assert done == 30


def test_an_error_of_a_function_is_raised_here():
    with pytest.raises(ValueError, match="nonnegative"):
        list(map_in_order(math.isqrt, [-1], 1, argument=int))


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(UserError, match="worker process was killed from outside"):
        list(map_in_order(os._exit, [3], 1, argument=int))
