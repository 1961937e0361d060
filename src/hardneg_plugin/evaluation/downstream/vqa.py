"""Questions about an image, answered out of a closed set from its frozen patches; and what is right without looking."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.evaluation.downstream.head_training import Fitting, Standardise, TrainedHead, fit, seeded

UNKNOWN_ANSWER = -1
"""An answer that training never gave: no head can be right."""


class VQABatch(NamedTuple):
    """The M questions of a split about its N studies."""

    patches: Tensor
    """`(N, P, D_v)`, frozen, any floating dtype."""
    patch_mask: Tensor
    """`(N, P)` bool: false where a patch is padding."""
    questions: Tensor
    """`(M, D_q)`: an embedding of each question."""
    study: Tensor
    """`(M,)` int64: the row in `patches` of the study that each question is about."""
    answers: Tensor
    """`(M,)` int64: the place of the right answer in the closed set; `UNKNOWN_ANSWER` outside it."""


class AnswerHead(nn.Module):
    """`[W_v patches attended by the question; question]`, then an MLP of one hidden layer over the closed set of answers.

    The attention is one softmax over the patches of `<W_q question, W_v patch> / sqrt(width)`. A study without any patch is seen
    as zero: with no patch at all in training, this is the best that the question alone can do.

    Args:
        of_patches: made of the training patches, `(K, D_v)`.
        of_questions: made of the training questions, `(M, D_q)`.
        answers: size A of the closed set.
        width: of the projections and of the hidden layer.
    """

    def __init__(self, of_patches: Standardise, of_questions: Standardise, answers: int, width: int = 256) -> None:
        super().__init__()
        patch_width, question_width = len(of_patches.mean), len(of_questions.mean)
        self.of_patches, self.of_questions = of_patches, of_questions
        self.value = nn.Linear(patch_width, width, bias=False)  # no bias: what is not there stays zero
        self.query = nn.Linear(question_width, width)
        self.mlp = nn.Sequential(nn.Linear(width + question_width, width), nn.ReLU(), nn.Linear(width, answers))

    def forward(self, patches: Tensor, patch_mask: Tensor, questions: Tensor) -> Tensor:
        """Patches `(B, P, D_v)`, patch_mask `(B, P)` bool and questions `(B, D_q)` to logits `(B, A)`."""
        questions = self.of_questions(questions)
        patches = self.of_patches(patches).masked_fill(~patch_mask[:, :, None], 0.0)
        # W_v is taken out of both sums over patches: <W_q q, W_v p> = <W_v' W_q q, p>, and the mean of W_v p is W_v of the mean
        wanted = self.query(questions) @ self.value.weight
        fit_of_patch = torch.einsum("bpd,bd->bp", patches, wanted) / self.value.out_features**0.5
        # the least number rather than minus infinity: a row without any patch must not turn into NaN
        share = fit_of_patch.masked_fill(~patch_mask, torch.finfo(patches.dtype).min).softmax(dim=-1)
        seen = self.value(torch.einsum("bp,bpd->bd", share, patches))
        logits: Tensor = self.mlp(torch.cat([seen, questions], dim=-1))
        return logits


def train_vqa(
    train: VQABatch, val: VQABatch, answers: int, *, how: Fitting, width: int = 256, device: torch.device | str = "cpu"
) -> TrainedHead[AnswerHead]:
    """A head trained on frozen features by cross-entropy; the epoch is the one with the most right answers on `val`.

    The same arguments give the same head on a CPU; torch's global random state is left alone.

    Args:
        train, val: of one D_v and D_q, on any device; their number of patches may differ.
        answers: size A of the closed set.
        how: the settings.
        width: of the head.
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
    with seeded(how.seed):
        head = AnswerHead(of_patches, of_questions, answers, width)
    head.to(device)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(_logits(head, train, rows), train.answers[rows].to(device), reduction="none")

    def score() -> float:
        return float((predict_answers(head, val, batch_size=how.batch_size) == val.answers).float().mean())

    return fit(head, len(train.questions), loss, score, how)


@torch.no_grad()
def predict_answers(head: AnswerHead, asked: VQABatch, *, batch_size: int = 256) -> Tensor:
    """The likeliest answer to each question, `(M,)` int64 in [0, A), on the device of `asked.answers`."""
    rows = torch.arange(len(asked.questions)).split(batch_size)
    return torch.cat([_logits(head, asked, some).argmax(dim=1) for some in rows]).to(asked.answers.device)


def closed_answers(texts: Iterable[str]) -> tuple[str, ...]:
    """The closed set of answers that these, the training's, make up, sorted."""
    return tuple(sorted(set(texts)))


def answer_indices(texts: Sequence[str], known: Sequence[str]) -> Tensor:
    """Where in the closed set each answer stands, `(M,)` int64; `UNKNOWN_ANSWER` where nowhere.

    >>> answer_indices(["yes", "left"], ("no", "yes"))
    tensor([ 1, -1])
    """
    places = {text: index for index, text in enumerate(known)}
    return torch.tensor([places.get(text, UNKNOWN_ANSWER) for text in texts], dtype=torch.int64)


def blind_answers(train_answers: Tensor, train_groups: Sequence[Hashable], groups: Sequence[Hashable]) -> Tensor:
    """The most frequent training answer of each question's group: what is answered without looking.

    Args:
        train_answers: `(M',)` int64.
        train_groups: what each training question belongs to: its kind, say, or its very text, which is a stronger baseline.
        groups: the same of the M questions to be answered.

    Returns:
        `(M,)` int64, the smallest of equally frequent answers; `UNKNOWN_ANSWER` for a group that training does not have.
    """
    counts: defaultdict[Hashable, Counter[int]] = defaultdict(Counter)
    for group, answer in zip(train_groups, train_answers.tolist(), strict=True):
        counts[group][answer] += 1
    most = {group: min(count, key=lambda answer: (-count[answer], answer)) for group, count in counts.items()}
    return torch.tensor([most.get(group, UNKNOWN_ANSWER) for group in groups], dtype=torch.int64)


def _logits(head: AnswerHead, asked: VQABatch, rows: Tensor) -> Tensor:
    device = head.query.weight.device
    studies = asked.study[rows]
    inputs = (asked.patches[studies], asked.patch_mask[studies], asked.questions[rows])
    logits: Tensor = head(*(some.to(device) for some in inputs))
    return logits


def _check(asked: VQABatch) -> None:
    patches, patch_mask, questions, study, answers = asked
    of_one = {len(questions), len(study), len(answers)}
    if patches.ndim != 3 or patch_mask.shape != patches.shape[:2] or questions.ndim != 2 or len(of_one) != 1:
        raise ValueError(
            "Expected `patches` (N, P, D_v), `patch_mask` (N, P), `questions` (M, D_q), `study` and `answers` (M,), but got "
            + ", ".join(str(tuple(part.shape)) for part in asked)
            + "."
        )
    if patch_mask.dtype != torch.bool:
        raise ValueError(f"Expected `patch_mask` of dtype torch.bool, but got {patch_mask.dtype}.")
    if len(study) and not (study.min() >= 0 and study.max() < len(patches)):
        raise ValueError(f"Expected `study` in [0, {len(patches)}), but got {int(study.min())} to {int(study.max())}.")
