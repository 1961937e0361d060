"""How well the rules read entities out of reports: precision and recall of each against the MeSH indexing of IU X-Ray.

Then how well they read where: of the entities that both the rules and the indexing have, the positions against the qualifiers.

The indexing was made by people for the whole study, of findings and impression; what has no heading of its own there is left out.
The words of reports that were taken out ("XXXX") are missing for the rules, not for those who indexed. Prints a table and a JSON
line.

    python benchmarks/entities.py NLMCXR_reports.tgz
"""

import argparse
import json
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hardneg_plugin.knowledge import PRESENT, ChestXray, Presence, Prompt, read_entities
from hardneg_plugin.knowledge.entities import SIDES, ZONES

SPINE = ("Thoracic Vertebrae", "Spine", "Lumbar Vertebrae", "Cervical Vertebrae")
MESH: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged", "Heart/enlarged"),
    "atelectasis": ("Pulmonary Atelectasis",),
    "pleural effusion": ("Pleural Effusion", "Hydropneumothorax"),
    "pneumothorax": ("Pneumothorax", "Hydropneumothorax"),
    "consolidation": ("Consolidation",),
    "airspace disease": ("Airspace Disease",),
    "opacity": ("Opacity",),
    "infiltrate": ("Infiltrate",),
    "pneumonia": ("Pneumonia",),
    "pulmonary edema": ("Pulmonary Edema",),
    "pulmonary congestion": ("Pulmonary Congestion",),
    "heart failure": ("Heart Failure",),
    "nodule": ("Nodule",),
    "mass": ("Mass",),
    "granuloma": ("Granuloma", "Calcified Granuloma"),
    "calcified granuloma": ("Calcified Granuloma",),
    "calcification": ("Calcinosis", "Calcified Granuloma"),
    "granulomatous disease": ("Granulomatous Disease",),
    "scarring": ("Cicatrix",),
    "pulmonary fibrosis": ("Pulmonary Fibrosis",),
    "emphysema": ("Emphysema", "Pulmonary Emphysema", "Blister"),
    "chronic obstructive pulmonary disease": ("Pulmonary Disease, Chronic Obstructive",),
    "hyperinflation": ("Lung/hyperdistention", "Lung, Hyperlucent"),
    "low lung volumes": ("Lung/hypoinflation",),
    "interstitial disease": (
        "Markings/interstitial",
        "Lung Diseases, Interstitial",
        "Opacity/interstitial",
        "Markings/bronchovascular",
    ),
    "pleural thickening": ("Thickening/pleura",),
    "blunted costophrenic angle": ("Costophrenic Angle/blunted",),
    "elevated hemidiaphragm": ("Diaphragm/elevated", "Diaphragmatic Eventration"),
    "flattened diaphragm": ("Diaphragm/flattened",),
    "hiatal hernia": ("Hernia, Hiatal",),
    "tortuous aorta": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
    "aortic atherosclerosis": ("Atherosclerosis", "Calcinosis/aorta", "Calcinosis/aorta, thoracic"),
    "degenerative changes of the spine": (*(f"{part}/degenerative" for part in SPINE), "Spondylosis", "Osteophyte"),
    "scoliosis": ("Scoliosis",),
    "kyphosis": ("Kyphosis",),
    "rib fracture": ("Fractures, Bone/ribs",),
    "fracture": ("Fractures, Bone",),
    "osteopenia": ("Bone Diseases, Metabolic",),
    "central line": ("Catheters, Indwelling",),
    "tube": ("Tube, Inserted",),
}
"""By entity the headings, and where one has to have it a qualifier after the slash."""


PLACES: dict[str, tuple[str, ...]] = {
    "left": ("left", "bilateral"),
    "right": ("right", "bilateral"),
    "apical": ("apex",),
    "upper lobe": ("upper lobe",),
    "middle lobe": ("middle lobe",),
    "lower lobe": ("lower lobe",),
    "basal": ("base",),
    "hilar": ("hilum",),
    "lingular": ("lingula",),
    "retrocardiac": ("retrocardiac",),
}
"""By position the qualifiers that name it."""


class Counts(NamedTuple):
    """Studies of one entity."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> float:
        """Of those read as present, the share that is indexed."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Of those indexed, the share read as present."""
        return self.right / max(1, self.right + self.missed)


def counts(archive: Path) -> dict[str, Counts]:
    """By entity, over all studies that are indexed and have a text."""
    found = dict.fromkeys(MESH, Counts())
    for headings, text in _studies(archive):
        read = read_entities(text)
        for name, wanted in MESH.items():
            is_indexed = any(is_heading(heading, want) for heading in headings for want in wanted)
            is_read = read.get(name) == Presence.PRESENT
            before = found[name]
            found[name] = Counts(
                before.right + (is_indexed and is_read),
                before.wrong + (is_read and not is_indexed),
                before.missed + (is_indexed and not is_read),
            )
    return found


def place_counts(archive: Path) -> dict[str, Counts]:
    """By position, over the entities with positions that both have, where both name a place of the same sort."""
    found = dict.fromkeys(PLACES, Counts())
    knowledge = ChestXray()
    for headings, text in _studies(archive):
        facts = dict(zip(knowledge.prompts, knowledge.facts(text), strict=True))
        for name, wanted in MESH.items():
            qualifiers = {
                part.strip().lower()
                for heading in headings
                if any(is_heading(heading, want) for want in wanted)
                for part in heading.split("/")[1:]
            }
            for sort in (SIDES, ZONES):
                indexed = {place for place in sort if qualifiers.intersection(PLACES[place])}
                read = {place for place in sort if facts.get(Prompt(name, place)) == PRESENT}
                if not indexed or not read:
                    continue
                for place in indexed | read:
                    before = found[place]
                    found[place] = Counts(
                        before.right + (place in indexed and place in read),
                        before.wrong + (place not in indexed),
                        before.missed + (place not in read),
                    )
    return found


def _studies(archive: Path) -> Iterator[tuple[list[str], str]]:
    with tarfile.open(archive) as files:
        for member in files:
            file = files.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            root = ElementTree.fromstring(file.read())
            headings = [heading.text or "" for heading in root.iter("major")]
            parts = [
                part.text or "" for part in root.iter("AbstractText") if part.get("Label") in ("FINDINGS", "IMPRESSION")
            ]
            text = "\n".join(parts)
            if headings and "No Indexing" not in headings and text.strip():
                yield headings, text


def is_heading(heading: str, wanted: str) -> bool:
    name, *qualifiers = (part.strip().lower() for part in heading.split("/"))
    wanted_name, _, qualifier = wanted.lower().partition("/")
    return name == wanted_name and (not qualifier or qualifier in qualifiers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive
    found = counts(archive)
    print("| entity | studies | precision | recall |\n|---|---|---|---|")
    for name, one in found.items():
        print(f"| {name} | {one.right + one.missed} | {one.precision:.2f} | {one.recall:.2f} |")
    means = [sum(getattr(one, what) for one in found.values()) / len(found) for what in ("precision", "recall")]
    print(f"| mean of {len(found)} | | {means[0]:.2f} | {means[1]:.2f} |")
    places = place_counts(archive)
    print("\n| position | named | precision | recall |\n|---|---|---|---|")
    for name, one in places.items():
        print(f"| {name} | {one.right + one.missed} | {one.precision:.2f} | {one.recall:.2f} |")
    print(json.dumps({name: [one.precision, one.recall] for name, one in (found | places).items()}))


if __name__ == "__main__":
    main()
