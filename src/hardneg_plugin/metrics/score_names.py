"""The names of the scores that a validation logs, known without computing one: settings that name them are checked at the start."""

import re
from collections.abc import Set

ALWAYS = frozenset({"report_loss", "length", "specificity", "unique_share", "distinct-1", "distinct-2"})
"""Of every report generator."""
OF_CAPTIONS = frozenset({"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"})
"""Those of `CaptionScores`."""
OF_FINDINGS = frozenset(
    {
        "findings_F1",
        "findings_precision",
        "findings_recall",
        "findings_macro_F1",
        "findings_attributes_F1",
        "findings_attributes_precision",
        "findings_attributes_recall",
        "findings_F1_rare",
        "findings_F1_medium",
        "findings_F1_common",
        "informativeness",
        "specificity_findings",
    }
)
"""Where findings can be read out of the reports."""
OF_ALIGNMENT = frozenset(
    {f"{way}R@{k}" for way in ("", "r2i_") for k in (1, 5, 10)}
    | {f"peers_{way}R@{k}" for way in ("", "r2i_") for k in (1, 5)}
    | {"image_specificity"}
)
"""Of models that embed images and reports."""
OF_LIKELIHOOD = frozenset({"likelihood_R@1", "likelihood_r2i_R@1"})
"""Of the splits that metrics.rank_by_likelihood names."""
WITHOUT_INTERVAL = frozenset({"unique_share", "distinct-1", "distinct-2"})
"""Those of the whole split alone, which are no means over studies."""
EVERY = ALWAYS | OF_CAPTIONS | OF_FINDINGS | OF_ALIGNMENT | OF_LIKELIHOOD
WITH_INTERVAL = EVERY - WITHOUT_INTERVAL
TASK_NAMES = ("retrieval", "zero_shot", "linear_probe", "localisation", "segmentation", "vqa")
"""The downstream tasks."""
OF_TASKS = re.compile(
    r"(pair_)?zero_shot_AUROC|pair_(peers_)?(r2i_)?R@\d+|probe_[\d.]+%_AUROC|pointing_game|IoU|Dice|vqa(_[a-z]+)?"
)
"""The names of their scores, without those of retrieval by embeddings, which a report generator has without tasks."""


def logged_scores(
    *, writes_reports: bool, aligns: bool, captions: bool, findings: bool, likelihood: bool
) -> dict[str, Set[str]]:
    """The scores that a validation logs, and those that it does not, by the reason.

    Args:
        writes_reports: whether the model is a report generator.
        aligns: whether it embeds images and reports.
        captions: whether caption scores are computed.
        findings: whether findings can be read.
        likelihood: whether the validation split is ranked by likelihood.

    Returns:
        Names by what they need: "" for those that are logged.

    >>> logged_scores(writes_reports=True, aligns=False, captions=True, findings=False, likelihood=False)["findings"] == OF_FINDINGS
    True
    """
    if not writes_reports:
        logged = OF_ALIGNMENT - {"image_specificity"}
        return {"": logged, "reports": EVERY - logged}
    needs = {
        "captions": (OF_CAPTIONS, captions),
        "findings": (OF_FINDINGS, findings),
        "alignment": (OF_ALIGNMENT, aligns),
        "likelihood": (OF_LIKELIHOOD, likelihood),
    }
    missing = {need: names for need, (names, holds) in needs.items() if not holds}
    return {"": EVERY.difference(*missing.values()), **missing}
