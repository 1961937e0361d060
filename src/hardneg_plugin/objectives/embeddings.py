"""What a host gives to an objective: image and report features of one batch, and the identities of its studies."""

from dataclasses import InitVar, dataclass

from torch import Tensor

from hardneg_plugin.functional.match_keys import Identity, MatchKeys


@dataclass(frozen=True)
class PairEmbeddings:
    """Features of B studies, of any length, and the identities by which studies match: matches are no negatives for each other.

    Args:
        images: `(B, D_i)` pooled image features.
        reports: `(B, D_r)` pooled report features.
        study_ids: B strings or integers, or a `(B,)` integer tensor; None: all studies differ.
        patient_ids: of the patients, likewise.
        texts: report texts, or `(B, T)` report token ids.
        labels: label sets in a canonical form.
        match_keys: keys in place of these four identities, which are arguments only; otherwise made of them.
        regions: `(B, P, D_i)` features of the image's regions or patches, for objectives that compare parts.
        region_mask: `(B, P)` bool, True where there is a region; None: everywhere.
        words: `(B, W, D_r)` features of the report's words, for objectives that compare parts.
        word_mask: `(B, W)` bool, True where there is a word; None: everywhere.
        grid: rows and columns of a view's patches, where the regions are patches: view by view, row by row.
        entities: `(B, Q, D_e)` features of the prompts' entities in the image, from the host's `Grounding`.
        facts: `(B, Q)`: 1 where the report states a prompt, 0 where it does not, -1 where it leaves it open.
        negatives: paired studies, for the source `Paired`: `B * K` studies, of which row `i * K + j` is the j-th of study i.

    An identity that is None, or -1 in an integer tensor, is unknown and matches nothing. Strings and integers of one identity have
    different keys: give it in the same way throughout training.

    Raises:
        ValueError: numbers of studies that differ between fields, features that are not `(B, D)`, or identities beside
            `match_keys`.

    >>> import torch
    >>> pairs = PairEmbeddings(images=torch.randn(2, 6), reports=torch.randn(2, 4), study_ids=["CXR1", "CXR2"])
    >>> pairs.match_keys.columns.shape
    torch.Size([2, 4])
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

    def __post_init__(self, *given: Identity | None) -> None:
        if self.images.ndim != 2 or self.reports.ndim != 2 or len(self.images) != len(self.reports):
            raise ValueError(
                "Expected `images` (B, D_i) and `reports` (B, D_r) of the same studies, "
                f"but got {tuple(self.images.shape)} and {tuple(self.reports.shape)}. Pool over patches and words first."
            )
        identities = dict(zip(("study_ids", "patient_ids", "texts", "labels"), given, strict=True))
        if self.match_keys is None:
            keys = MatchKeys.of(len(self.images), self.images.device, **identities)
            object.__setattr__(self, "match_keys", keys)
        elif any(identity is not None for identity in identities.values()):
            raise ValueError(f"Expected either `match_keys` or `{'`, `'.join(identities)}`, but got both.")
        elif len(self.match_keys) != len(self.images):
            raise ValueError(f"Expected `match_keys` of {len(self.images)} studies, but got {len(self.match_keys)}.")
        studies = len(self.images)
        for name, mask_name in (("regions", "region_mask"), ("words", "word_mask")):
            parts, mask = getattr(self, name), getattr(self, mask_name)
            if parts is not None and (parts.ndim != 3 or len(parts) != studies):
                raise ValueError(f"Expected `{name}` ({studies}, parts, width), but got {tuple(parts.shape)}.")
            if mask is not None and (parts is None or mask.shape != parts.shape[:2]):
                expected = f"no mask without `{name}`" if parts is None else f"`{mask_name}` {tuple(parts.shape[:2])}"
                raise ValueError(f"Expected {expected}, but got {tuple(mask.shape)}.")
        for name in ("entities", "facts"):
            field = getattr(self, name)
            if field is not None and len(field) != studies:
                raise ValueError(f"Expected `{name}` of {studies} studies, but got {tuple(field.shape)}.")
        if self.negatives is not None and (not studies or len(self.negatives.images) % studies):
            raise ValueError(
                f"Expected `negatives` with K rows for each of {studies} studies, but got {len(self.negatives.images)} rows."
            )
