"""Which signatures a plugged method shows, and which names the code of a class holds."""

import functools
import inspect

import pytest
from torch import nn

from hardneg_plugin.plugin.signatures import constructor_shown_as, names_in_own_methods, step_shown_as


def names_of(function):
    return list(inspect.signature(function).parameters)


def test_a_step_shows_the_hosts_signature_and_runs_its_own_code():
    def step(self, *args, scale=2, **kwargs):
        """Of the plug-in."""
        return self, args, scale, kwargs

    def hosts(self, batch, batch_idx, dataloader_idx=0):
        raise AssertionError

    shown = step_shown_as(step, hosts)
    assert names_of(shown) == ["self", "batch", "batch_idx", "dataloader_idx"]
    assert shown("me", 1, other=3) == ("me", (1,), 2, {"other": 3})
    assert (shown.__doc__, shown.__name__, shown.__qualname__) == (step.__doc__, step.__name__, step.__qualname__)
    assert vars(shown)["__wrapped__"] is hosts
    assert "__signature__" not in vars(step)


def test_a_decorated_step_shows_what_is_inside():
    def hosts(self, batch):
        raise AssertionError

    @functools.wraps(hosts)
    def decorated(*args, **kwargs):
        return hosts(*args, **kwargs)

    shown = step_shown_as(lambda *args: args, decorated)
    assert names_of(shown) == ["self", "batch"]
    assert vars(shown)["__wrapped__"] is hosts


def test_a_constructor_shows_the_hosts_arguments_and_the_keywords_before_those_that_collect():
    def constructor(self, *args, hard_negatives=None, chunks=1, **kwargs):
        return args, hard_negatives, chunks, kwargs

    def hosts(self, width, *layers, depth=2, **options):
        raise AssertionError

    shown = constructor_shown_as(constructor, hosts, ["hard_negatives", "chunks"])
    assert names_of(shown) == ["self", "width", "layers", "depth", "hard_negatives", "chunks", "options"]
    assert inspect.signature(shown).parameters["chunks"].default == 1
    assert shown("me", 5, chunks=3, depth=4) == ((5,), None, 3, {"depth": 4})
    assert names_of(constructor_shown_as(constructor, hosts, ["chunks"])) == [
        "self",
        "width",
        "layers",
        "depth",
        "chunks",
        "options",
    ]


def test_a_method_that_holds_a_cell_keeps_it():
    class Host(nn.Module):
        def step(self, *args):
            return super().extra_repr()

    shown = step_shown_as(Host.step, lambda self, batch: None)
    assert shown(Host(), 1) == ""


class Base(nn.Module):
    def inherited(self):
        return self.in_base()


class Own(Base):
    static = staticmethod(lambda: 0)

    def direct(self):
        return self.in_own()

    def nested(self):
        def inner():
            return [self.in_inner() for _ in range(2)]

        return inner


def decorated(method):
    @functools.wraps(method)
    def run(*args):
        return method(*args)

    return run


class Decorated(nn.Module):
    @decorated
    def step(self):
        return self.in_decorated()


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (Own, "in_own", True),
        (Own, "in_base", True),
        (Own, "in_inner", True),
        (Base, "in_own", False),
        (Own, "nowhere", False),
        (Decorated, "in_decorated", True),
        (Own, "register_buffer", False),  # named by nn.Module alone
        (nn.Linear, "kaiming_uniform_", False),
    ],
)
def test_names_are_those_of_a_classs_own_code(kind, name, expected):
    assert names_in_own_methods(kind, name) is expected
