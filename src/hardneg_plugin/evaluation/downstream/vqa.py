"""Visual question answering with a closed set of answers, from frozen patches; and a baseline that does not look."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.evaluation.downstream.head_training import (
    HeadTraining,
    Standardise,
    TrainedHead,
    seeded,
    train_head,
)

UNKNOWN_ANSWER = -1
"""An answer outside the closed set, which no head can give."""


class VQABatch(NamedTuple):
    """M questions about N studies."""

    patches: Tensor
    """`(N, P, D_v)`, frozen, any floating dtype."""
    patch_mask: Tensor
    """`(N, P)` bool, False on padding."""
    questions: Tensor
    """`(M, D_q)`, their embeddings."""
    study: Tensor
    """`(M,)` int64: the row of each question's study in `patches`."""
    answers: Tensor
    """`(M,)` int64: the index of the right answer in the closed set; `UNKNOWN_ANSWER` outside it."""


class AnswerHead(nn.Module):
    """`[W_v patches attended by the question; question]`, then an MLP of one hidden layer over the closed set of answers.

    The attention is one softmax over the patches of `<W_q question, W_v patch> / sqrt(width)`. A study without patches counts as
    zero: trained without any patch, the head is the best that the question alone can do.

    Args:
        of_patches: made of the training patches, `(K, D_v)`.
        of_questions: made of the training questions, `(M, D_q)`.
        answers: size A of the closed set.
        width: of the projections and of the hidden layer, >= 1.

    >>> head = AnswerHead(Standardise(torch.randn(9, 16)), Standardise(torch.randn(9, 8)), answers=5)
    >>> head(torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool), torch.randn(2, 8)).shape
    torch.Size([2, 5])
    """

    def __init__(self, of_patches: Standardise, of_questions: Standardise, answers: int, width: int = 256) -> None:
        super().__init__()
        patch_width, question_width = len(of_patches.mean), len(of_questions.mean)
        self.of_patches, self.of_questions = of_patches, of_questions
        self.value = nn.Linear(patch_width, width, bias=False)  # no bias: a missing patch stays zero
        self.query = nn.Linear(question_width, width)
        self.mlp = nn.Sequential(nn.Linear(width + question_width, width), nn.ReLU(), nn.Linear(width, answers))

    def forward(self, patches: Tensor, patch_mask: Tensor, questions: Tensor) -> Tensor:
        """Patches `(B, P, D_v)`, patch_mask `(B, P)` bool and questions `(B, D_q)` to logits `(B, A)`."""
        questions = self.of_questions(questions)
        patches = self.of_patches(patches).masked_fill(~patch_mask[:, :, None], 0.0)
        # W_v is taken out of both sums over patches: <W_q q, W_v p> = <W_v' W_q q, p>, and the mean of W_v p is W_v of the mean
        query = self.query(questions) @ self.value.weight
        logit_of_patch = torch.einsum("bpd,bd->bp", patches, query) / self.value.out_features**0.5
        # the smallest number, not minus infinity: a row without patches must not become NaN
        weights = logit_of_patch.masked_fill(~patch_mask, torch.finfo(patches.dtype).min).softmax(dim=-1)
        attended = self.value(torch.einsum("bp,bpd->bd", weights, patches))
        logits: Tensor = self.mlp(torch.cat([attended, questions], dim=-1))
        return logits


def train_vqa(
    train: VQABatch,
    val: VQABatch,
    answers: int,
    *,
    training: HeadTraining,
    width: int = 256,
    device: torch.device | str = "cpu",
) -> TrainedHead[AnswerHead]:
    """A head trained on frozen features by cross-entropy, after the epoch with the most right answers on `val`.

    The same arguments give the same head on a CPU; torch's global random state is not changed.

    Args:
        train, val: of one D_v and D_q, on any device; their number of patches may differ.
        answers: size A of the closed set.
        training: how.
        width: of the head, >= 1.
        device: where it is trained and stays.

    Raises:
        UserError: there is nothing to train on.
        ValueError: the shapes do not fit together, or a training answer is outside the closed set.
    """
    for split in (train, val):
        _check(split)
    if not ((train.answers >= 0) & (train.answers < answers)).all():
        raise ValueError(
            f"Expected the answers of training in [0, {answers}), but got {train.answers.unique().tolist()}."
        )
    of_patches, of_questions = Standardise(train.patches[train.patch_mask]), Standardise(train.questions)
    with seeded(training.seed):
        head = AnswerHead(of_patches, of_questions, answers, width)
    head.to(device)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(_logits(head, train, rows), train.answers[rows].to(device), reduction="none")

    def score() -> float:
        return float((predict_answers(head, val, batch_size=training.batch_size) == val.answers).float().mean())

    return train_head(head, len(train.questions), loss, score, training)


@torch.no_grad()
def predict_answers(head: AnswerHead, batch: VQABatch, *, batch_size: int = 256) -> Tensor:
    """The likeliest answer to each question.

    Args:
        head: on any device.
        batch: of M questions.
        batch_size: questions at a time.

    Returns:
        `(M,)` int64 in [0, A), on the device of `batch.answers`.
    """
    rows = torch.arange(len(batch.questions)).split(batch_size)
    return torch.cat([_logits(head, batch, some).argmax(dim=1) for some in rows]).to(batch.answers.device)


def closed_answers(texts: Iterable[str]) -> tuple[str, ...]:
    """The closed set of the training answers, sorted."""
    return tuple(sorted(set(texts)))


def answer_indices(texts: Sequence[str], known: Sequence[str]) -> Tensor:
    """The index of each answer in the closed set, `(M,)` int64.

    Args:
        texts: of M answers.
        known: the closed set; an answer outside it gets `UNKNOWN_ANSWER`.

    >>> answer_indices(["yes", "left"], ("no", "yes"))
    tensor([ 1, -1])
    """
    places = {text: index for index, text in enumerate(known)}
    return torch.tensor([places.get(text, UNKNOWN_ANSWER) for text in texts], dtype=torch.int64)


def blind_answers(train_answers: Tensor, train_groups: Sequence[Hashable], groups: Sequence[Hashable]) -> Tensor:
    """The most frequent training answer of each question's group, as a baseline that does not look.

    Args:
        train_answers: `(M',)` int64.
        train_groups: of each training question, such as its kind, or its text, which makes a stronger baseline.
        groups: of the M questions to be answered.

    Returns:
        `(M,)` int64, the smallest of equally frequent answers; `UNKNOWN_ANSWER` for a group without training questions.

    >>> blind_answers(torch.tensor([3, 3, 1]), ["side", "side", "size"], ["size", "side", "place"])
    tensor([ 1,  3, -1])
    """
    counts: defaultdict[Hashable, Counter[int]] = defaultdict(Counter)
    for group, answer in zip(train_groups, train_answers.tolist(), strict=True):
        counts[group][answer] += 1
    most = {group: min(count, key=lambda answer: (-count[answer], answer)) for group, count in counts.items()}
    return torch.tensor([most.get(group, UNKNOWN_ANSWER) for group in groups], dtype=torch.int64)


def _logits(head: AnswerHead, batch: VQABatch, rows: Tensor) -> Tensor:
    device = head.query.weight.device
    studies = batch.study[rows]
    inputs = (batch.patches[studies], batch.patch_mask[studies], batch.questions[rows])
    logits: Tensor = head(*(some.to(device) for some in inputs))
    return logits


def _check(batch: VQABatch) -> None:
    patches, patch_mask, questions, study, answers = batch
    lengths = {len(questions), len(study), len(answers)}
    if patches.ndim != 3 or patch_mask.shape != patches.shape[:2] or questions.ndim != 2 or len(lengths) != 1:
        raise ValueError(
            "Expected `patches` (N, P, D_v), `patch_mask` (N, P), `questions` (M, D_q), `study` and `answers` (M,), but got "
            + ", ".join(str(tuple(part.shape)) for part in batch)
            + "."
        )
    if patch_mask.dtype != torch.bool:
        raise ValueError(f"Expected `patch_mask` of dtype torch.bool, but got {patch_mask.dtype}.")
    if len(study) and not (study.min() >= 0 and study.max() < len(patches)):
        raise ValueError(f"Expected `study` in [0, {len(patches)}), but got {int(study.min())} to {int(study.max())}.")
