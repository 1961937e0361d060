"""What one report for every study of IU X-Ray's test split scores: why models are not chosen by BLEU.

    python benchmarks/one_report.py annotation.json

Three reports: the most frequent one of the training split, the training report with the highest BLEU-4 on the validation split, and
one of frequent training sentences without findings, put together sentence by sentence while the BLEU-4 on validation grows.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu

from hardneg_plugin.data.annotations import read_lists
from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.knowledge import read_findings
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import make_record

SENTENCES = 60
"""The most frequent sentences that a report is put together of."""
WORDS = range(25, 46)
"""Words of a training report that may be chosen: shorter and longer ones have a lower BLEU."""
SHOWN = ("BLEU-4", "ROUGE-L", "CIDEr", "findings_F1", "informativeness", "specificity")


def bleu(report: str, references: Sequence[str]) -> float:
    """BLEU-4 of one report for all references."""
    by_index = {i: [text] for i, text in enumerate(references)}, {i: [report] for i in range(len(references))}
    return float(Bleu(4).compute_score(*by_index, verbose=0)[0][3])


def joined(sentences: Sequence[str]) -> str:
    """Sentences as cleaned reports have them."""
    return " . ".join(sentences) + " ."


def normal_report(train: Sequence[str], val: Sequence[str]) -> str:
    """A report without findings that is put together for BLEU-4 on `val`, of sentences of `train`."""
    counts = Counter(
        part for text in train for sentence in text.split(" . ") if (part := sentence.rstrip(" .").strip())
    )
    sentences = [sentence for sentence, _ in counts.most_common(SENTENCES) if not read_findings(sentence)]
    chosen: list[str] = []
    highest = 0.0
    while True:
        left = [sentence for sentence in sentences if sentence not in chosen]
        options = [[*chosen, sentence] for sentence in left] + [[sentence, *chosen] for sentence in left]
        score, best = max((bleu(joined(option), val), option) for option in options)
        if score <= highest:
            return joined(chosen)
        highest, chosen = score, best


def main() -> None:
    """Print the three reports and their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation", type=Path, help="R2Gen's annotation.json of IU X-Ray")
    lists = read_lists(parser.parse_args().annotation)
    clean = CLEANINGS["iu_xray"]
    train, val = ([clean(entry["report"]) for entry in lists[name]] for name in ("train", "val"))
    reports = {
        "most frequent": Counter(train).most_common(1)[0][0],
        "best on validation": max(
            (text for text in dict.fromkeys(train) if len(text.split()) in WORDS), key=lambda text: bleu(text, val)
        ),
        "normal sentences": normal_report(train, val),
    }
    for name, report in reports.items():
        records = [
            make_record(str(entry["id"]), clean(entry["report"]), report, read_findings=read_findings)
            for entry in lists["test"]
        ]
        card = score_records(records, caption=CaptionScores(meteor=False))
        ends = card.intervals()
        print(f"{name}: {report}")
        for score in SHOWN:
            low, high = ends[score]
            print(f"  {score:<16}{card.values[score]:7.3f}  {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
