"""What a host hands to an objective: image and report embeddings of one batch, and what identifies its studies."""

from dataclasses import InitVar, dataclass

from torch import Tensor

from hardneg_plugin.functional.match_keys import Identity, MatchKeys


@dataclass(frozen=True)
class PairEmbeddings:
    """Embeddings of B studies and what must not count as a negative pair.

    Args:
        images: `(B, D_i)` pooled image features, any length.
        reports: `(B, D_r)` pooled report features, any length.
        study_ids: who the studies are: B strings or integers, or a `(B,)` integer tensor. None: all are different studies.
        patient_ids: the same for patients, where known. Two studies of one patient are no negatives for each other.
        texts: the report texts, or `(B, T)` report token ids: studies with equal reports are no negatives for each other.
        labels: label sets in a canonical form, likewise.
        match_keys: the keys of these four, made of them where not given.
        regions: `(B, P, D_i)` features of the image's regions or patches, for objectives that look at parts.
        region_mask: `(B, P)` bool, True where there is one; None: all are there.
        words: `(B, W, D_r)` features of the report's words, likewise.
        word_mask: `(B, W)` bool; None: all are there.
        grid: rows and columns of the regions, where these are patches: view by view, and row by row within a view.
        entities: `(B, Q, D_e)`: what the host's own grounded-knowledge module found of each prompt (`Grounding`).
        facts: `(B, Q)`: 1 where the report states a prompt, 0 where it does not, -1 where it leaves it open.
        negatives: mined hard negatives that the batch carries: `B * K` studies, of which row `i * K + j` is the j-th of
            study i. Only `Paired` takes them.

    Missing fields are unknown and match nothing, and so are None in a sequence and -1 in an integer tensor. One field must be
    given in one way throughout training: a string and an integer tensor have different keys.

    Raises:
        ValueError: when the number of studies differs between fields, features are not `(B, D)`, or there are not K negatives
            for each study.
    """

    images: Tensor
    reports: Tensor
    study_ids: InitVar[Identity | None] = None
    patient_ids: InitVar[Identity | None] = None
    texts: InitVar[Identity | None] = None
    labels: InitVar[Identity | None] = None
    match_keys: MatchKeys = None  # type: ignore[assignment]  # never None once made
    regions: Tensor | None = None
    region_mask: Tensor | None = None
    words: Tensor | None = None
    word_mask: Tensor | None = None
    grid: tuple[int, int] | None = None
    entities: Tensor | None = None
    facts: Tensor | None = None
    negatives: "PairEmbeddings | None" = None

    def __post_init__(
        self,
        study_ids: Identity | None,
        patient_ids: Identity | None,
        texts: Identity | None,
        labels: Identity | None,
    ) -> None:
        if self.images.ndim != 2 or self.reports.ndim != 2 or len(self.images) != len(self.reports):
            raise ValueError(
                "Expected `images` (B, D_i) and `reports` (B, D_r) of the same studies, "
                f"but got {tuple(self.images.shape)} and {tuple(self.reports.shape)}. Pool over patches and words first."
            )
        if self.match_keys is None:
            identities = {"study_ids": study_ids, "patient_ids": patient_ids, "texts": texts, "labels": labels}
            keys = MatchKeys.of(len(self.images), self.images.device, **identities)
            object.__setattr__(self, "match_keys", keys)
        elif len(self.match_keys) != len(self.images) or any(
            identity is not None for identity in (study_ids, patient_ids, texts, labels)
        ):
            raise ValueError(
                f"Expected `match_keys` of {len(self.images)} studies in place of `study_ids`, `patient_ids`, `texts` and "
                f"`labels`, but got keys of {len(self.match_keys)} studies."
            )
        for name, mask in (("regions", "region_mask"), ("words", "word_mask")):
            _check_parts(name, getattr(self, name), mask, getattr(self, mask), len(self.images))
        for name in ("entities", "facts"):
            field = getattr(self, name)
            if field is not None and len(field) != len(self.images):
                raise ValueError(f"Expected `{name}` of {len(self.images)} studies, but got {tuple(field.shape)}.")
        if self.negatives is not None and (not len(self.images) or len(self.negatives.images) % len(self.images)):
            raise ValueError(
                f"Expected `negatives` with K rows for each of {len(self.images)} studies, "
                f"but got {len(self.negatives.images)} rows."
            )


def _check_parts(name: str, parts: Tensor | None, mask_name: str, mask: Tensor | None, studies: int) -> None:
    if parts is not None and (parts.ndim != 3 or len(parts) != studies):
        raise ValueError(f"Expected `{name}` ({studies}, parts, width), but got {tuple(parts.shape)}.")
    if mask is not None and (parts is None or mask.shape != parts.shape[:2]):
        expected = f"no mask without `{name}`" if parts is None else f"`{mask_name}` {tuple(parts.shape[:2])}"
        raise ValueError(f"Expected {expected}, but got {tuple(mask.shape)}.")
