"""What a host logs while it runs in parts: kept, and logged once as that of the whole batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.plugin.batch_parts import weighted_mean

_REDUCED: dict[Any, Callable[[Tensor], Tensor]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}


class PartLog:
    """The calls of `self.log` in one part.

    >>> first, second = PartLog(), PartLog()
    >>> first.keep("loss", 1.0, (), {"prog_bar": True})
    >>> second.keep("loss", 4.0, (), {"prog_bar": True})
    >>> log_together([first, second], [2, 1], lambda name, value, **options: print(name, value, options))
    loss 2.0 {'prog_bar': True}
    """

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def keep(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a call; of two with one name the later.

        Args:
            name: of the value.
            value: a number, a tensor, or a metric.
            args, kwargs: of `log`, after the value.
        """
        self.calls[name] = (value.detach() if isinstance(value, Tensor) else value, args, kwargs)


def log_together(logs: Sequence[PartLog], weights: Sequence[Any], log: Callable[..., None]) -> None:
    """Log each name once: the weighted mean over the parts, or what `reduce_fx` makes of them; a metric as it is.

    Args:
        logs: of the parts.
        weights: of the parts.
        log: `LightningModule.log`.
    """
    for name in dict.fromkeys(name for part in logs for name in part.calls):
        found = [(part.calls[name], weight) for part, weight in zip(logs, weights, strict=True) if name in part.calls]
        values = [value for (value, _, _), _ in found]
        _, args, kwargs = found[0][0]
        sizes = [options["batch_size"] for (_, _, options), _ in found if options.get("batch_size") is not None]
        together = _together(values, [weight for _, weight in found], kwargs.get("reduce_fx", "mean"))
        log(name, together, *args, **{**kwargs, **({"batch_size": sum(sizes)} if sizes else {})})


def _together(values: Sequence[Any], weights: Sequence[Any], reduce_fx: Any) -> Any:
    if not all(isinstance(value, Tensor | float | int) for value in values):
        return values[-1]
    if reduce_fx in ("mean", "avg", torch.mean):
        return weighted_mean(values, weights)
    reduce = _REDUCED.get(reduce_fx, reduce_fx)
    return reduce(torch.stack([torch.as_tensor(value) for value in values]))
