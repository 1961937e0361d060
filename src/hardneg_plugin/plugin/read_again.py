"""The reports of a batch read with the images of other studies, by any host: its step is run again with other image features.

The module that the place `images` names gives back what it returned in the step, in another order, so that only what comes after
it is computed anew. With a place `token_losses` there is a loss for each token. Without one there is only the loss of the whole
batch: enough to ask that it be lower with the batch's own images than with others, but not to tell which report or which token the
difference is due to.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives import HardNegativeObjective
from hardneg_plugin.plugin.batch_parts import map_tensors, tensors_in
from hardneg_plugin.plugin.feature import Feature
from hardneg_plugin.plugin.feature_paths import Calls, FeaturePaths, recorded
from hardneg_plugin.plugin.host_paths import find_module


def reordered(value: Any, order: Tensor, towards: Tensor | None = None) -> Any:
    """What a module returned for B studies, with the rows of other studies.

    Args:
        value: tensors with B rows, at any depth of mappings, sequences and dataclasses; other tensors and values stay.
        order: `(B,)` int64, the row that each study gets; -1: the mean of all finite rows of a floating-point tensor, padding
            among them.
        towards: `(B,)` in [0, 1], how far floating-point rows move towards those of the study itself; None: 0.

    >>> reordered({"patches": torch.tensor([[1.0], [3.0]])}, torch.tensor([1, -1]))
    {'patches': tensor([[3.],
            [2.]])}
    """

    def moved(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != len(order):
            return tensor
        others = tensor[order.clamp_min(0)]
        if not tensor.is_floating_point():
            return others
        rows = (-1, *[1] * (tensor.ndim - 1))
        is_finite = tensor.detach().isfinite()[..., None].flatten(1).all(1).view(rows)
        mean = tensor.where(is_finite, 0).mean(0) * (len(tensor) / is_finite.sum().clamp_min(1)).to(tensor.dtype)
        others = torch.where((order < 0).view(rows), mean, others)
        return others if towards is None else torch.lerp(others, tensor, towards.view(rows).to(tensor.dtype))

    return map_tensors(value, moved)


@contextmanager
def answering(module: nn.Module, outputs: Sequence[Any], name: str) -> Iterator[None]:
    """Let a module return given outputs, call by call, instead of computing them, while the context lasts.

    Args:
        module: its hooks run as before.
        outputs: of its calls.
        name: of the module, for messages.

    Raises:
        UserError: it is called more often.
    """
    rest = iter(outputs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return next(rest)
        except StopIteration:
            raise UserError(
                f"{name}: the step with other images called this module more than {len(outputs)} times, as often as the step "
                "before: a step that draws how often it calls a module cannot be run again."
            ) from None

    before: Mapping[str, Any] = {key: vars(module)[key] for key in ("forward",) if key in vars(module)}
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        vars(module).update(before)


def check_can_read_again(places: FeaturePaths, objective: HardNegativeObjective, is_automatic: bool) -> None:
    """Check that a host without a method `token_losses` can be run again as the objective needs it.

    Args:
        places: of its features.
        objective: in training.
        is_automatic: whether Lightning optimises, not the host's step.

    Raises:
        UserError: it cannot.
    """
    terms = ("token_weights", "edit_margin", "likelihood_margin")
    what = next(name for name in terms if getattr(objective, name) is not None)
    remedy = "or let the host define token_losses(batch, outputs, image_order=None, towards=None) -> TokenLosses."
    if not is_automatic:
        raise UserError(
            f"{what} cannot run the step again of a host that optimises manually: let Lightning optimise, {remedy}"
        )
    if _image_path(places) is None:
        raise UserError(
            f"{what} runs the step again with other images, which needs the path of a module, but got images={places.images!r}: "
            f"give the path of the image encoder, {remedy}"
        )
    for name in ("token_weights", "likelihood_margin"):
        if getattr(getattr(objective, name), "choice", None) == "paired":
            raise UserError(f"{name}.choice=paired needs images that the step does not read: choose another, {remedy}")
    if what != "likelihood_margin" and places.token_losses is None:
        raise UserError(
            f"{what} needs the loss of each token: give token_losses=(host, batch, outputs) -> "
            f"TokenLosses.of_logits(logits, labels), {remedy}"
        )


@contextmanager
def images_of_others(
    places: FeaturePaths, host: nn.Module, calls: Calls, image_order: Tensor, towards: Tensor | None
) -> Iterator[Calls]:
    """While the context lasts, the host's image module gives what it returned before, for other studies.

    Args:
        places: of the features.
        host: in training.
        calls: of the step before, from `recorded`.
        image_order, towards: as of `reordered`.

    Yields:
        What modules return meanwhile, as `recorded` does.
    """
    path = _image_path(places)
    assert path is not None
    module, _ = find_module(host, path, "images")
    others = [reordered(output, image_order, towards) for output in calls[path]]
    with ExitStack() as stack:
        stack.enter_context(answering(module, others, f"images={path!r}"))
        yield stack.enter_context(recorded(places.modules(host)))


def read_once(places: FeaturePaths, host: nn.Module, batch: Any, outputs: Any, calls: Calls) -> TokenLosses:
    """The token losses of one step; without a place for them the loss of the batch, for each study.

    Args:
        places: of the features.
        host, batch, outputs, calls: of the step.

    Raises:
        UserError: the place gives something else.
    """
    if places.token_losses is not None:
        read = places.read("token_losses", host, batch, outputs, calls)
        if not isinstance(read, TokenLosses):
            raise UserError(f"token_losses: expected TokenLosses, but got {type(read).__name__}.")
        return read
    loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
    path = _image_path(places)
    assert path is not None
    studies = len(next(tensor for tensor in tensors_in(calls[path][0]) if tensor.ndim))
    return TokenLosses(loss.expand(studies, 1), torch.ones(studies, 1, dtype=torch.bool, device=loss.device))


def _image_path(places: FeaturePaths) -> str | None:
    path = places.images.path if isinstance(places.images, Feature) else places.images
    return path if isinstance(path, str) and path.split(".")[0] not in ("batch", "outputs") else None
