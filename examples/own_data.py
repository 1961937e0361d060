"""The layout of your data: writes a small folder that `data=annotations` reads.

    python examples/own_data.py my_studies
    hardneg-train data=annotations data.root=my_studies

The studies here are drawn; replace them by your images and reports.
"""

import json
import sys
from pathlib import Path

from PIL import Image

from hardneg_plugin.data.phantom import PhantomStudies


def main(folder: str = "my_studies") -> None:
    root = Path(folder)
    source = PhantomStudies(train=24, val=8, test=8, size=256)
    annotation = {}
    for split in ("train", "val", "test"):
        annotation[split] = []
        for sample in source.split(split):
            paths = []
            for number, view in enumerate(sample["images"]):
                path = Path(sample["id"]) / f"{number}.png"  # below images/, any depth, any number of views
                (root / "images" / path.parent).mkdir(parents=True, exist_ok=True)
                Image.fromarray(view[0].numpy()).save(root / "images" / path)
                paths.append(str(path))
            annotation[split].append({"id": sample["id"], "report": sample["report"], "image_path": paths})
    (root / "annotation.json").write_text(json.dumps(annotation, indent=1))
    print(f"{sum(map(len, annotation.values()))} studies in {root}/")


if __name__ == "__main__":
    main(*sys.argv[1:])
