from pathlib import Path

import hydra
import pytest
from hydra.utils import instantiate

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.downloads.indiana import Indiana
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.errors import UserError

REPORTS = """uid,MeSH,Problems,image,indication,comparison,findings,impression
1,normal,normal,Xray Chest PA and Lateral,Pain,None.,"Clear, with ""XXXX"".",Normal.
2,Cardiomegaly/borderline;Pulmonary Artery/enlarged,Cardiomegaly,x,,,,Large heart.
3,No Indexing,No Indexing,x,,,Only lateral.,
4,normal,normal,x,,,No images.,None.
"""
PROJECTIONS = """uid,filename,projection
1,1_IM-0001-4001.dcm.png,Frontal
1,1_IM-0001-3001.dcm.png,Lateral
2,sub/2.png,Frontal
2,gone.png,Frontal
3,3.png,Lateral
3,3b.png,Oblique
9,9.png,Frontal
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "r.csv").write_text(REPORTS)
    (tmp_path / "p.csv").write_text(PROJECTIONS)
    for name in ("1_IM-0001-4001.dcm.png", "1_IM-0001-3001.dcm.png", "sub/2.png", "3.png", "3b.png", "9.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def source(home, **options):
    return Indiana(home / "r.csv", home / "p.csv", home / "images", **options)


def test_all_views(home):
    images = home / "images"
    studies = source(home)
    assert len(studies) == 5
    assert list(studies) == list(studies) == [
        OriginalStudy(
            id="CXR1",
            images=(images / "1_IM-0001-4001.dcm.png", images / "1_IM-0001-3001.dcm.png"),
            findings='Clear, with "XXXX".',
            impression="Normal.",
            patient="1",
            labels="",
        ),
        DroppedEntry("CXR2", "image not found", "gone.png"),
        OriginalStudy(
            id="CXR2",
            images=(images / "sub" / "2.png",),
            impression="Large heart.",
            patient="2",
            labels="Cardiomegaly/borderline|Pulmonary Artery/enlarged",
        ),
        OriginalStudy(
            id="CXR3", images=(images / "3.png", images / "3b.png"), findings="Only lateral.", patient="3", labels=None
        ),
        DroppedEntry("CXR4", "no image"),
        DroppedEntry("CXR9", "no report", "9.png"),
    ]  # fmt: skip


def test_frontal_views(home):
    got = [
        (item.id, item.reason if isinstance(item, DroppedEntry) else [path.name for path in item.images])
        for item in source(home, views="frontal")
    ]
    assert got == [
        ("CXR1", ["1_IM-0001-4001.dcm.png"]),
        ("CXR2", "image not found"),
        ("CXR2", ["2.png"]),
        ("CXR3", "unknown projection"),
        ("CXR3", "no frontal image"),
        ("CXR4", "no frontal image"),
        ("CXR9", "no report"),
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("r.csv", "uid,MeSH,finding,impression\n1,a,b,c\n", 'column "findings".*Rename "finding"'),
        ("r.csv", "id;findings\n1;2\n", 'column "uid"'),
        ("r.csv", REPORTS + "1,normal,,,,,Again.,\n", "line 6 repeats '1'"),
        ("r.csv", REPORTS + " ,normal,,,,,Blank.,\n", "line 6 has none"),
        ("r.csv", REPORTS + "5,normal\n", "line 6 has 2"),
        ("r.csv", REPORTS.splitlines()[0], "only a header"),
        ("r.csv", "", "has none"),
        ("r.csv", REPORTS.encode("utf-16"), "UTF-8"),
        ("p.csv", REPORTS, 'column "filename"'),
        ("p.csv", PROJECTIONS + "1,,Frontal\n", "line 9 has none"),
        ("p.csv", PROJECTIONS + "1,../p.csv,Frontal\n", "Expected paths inside"),
        ("p.csv", PROJECTIONS + "1,/etc/passwd,Frontal\n", "Expected paths inside"),
        ("p.csv", PROJECTIONS + "1,link.png,Frontal\n", "outside"),
    ],
)
def test_bad_tables(home, file, content, message):
    (home / "images" / "link.png").symlink_to("/etc/passwd")
    (home / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        list(source(home))
    assert "\n" not in str(caught.value)


def test_bad_arguments(home):
    with pytest.raises(UserError, match="'lateral'"):
        source(home, views="lateral")
    with pytest.raises(UserError, match="folder of images"):
        Indiana(home / "r.csv", home / "p.csv", Path("nowhere"))
    with pytest.raises(UserError, match="No such file"):
        Indiana(home / "gone.csv", home / "p.csv", home / "images")


def test_its_config(home):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(
            "prepare",
            [
                "source=indiana",
                f"source.reports={home}/r.csv",
                f"source.projections={home}/p.csv",
                f"source.images={home}/images",
                "source.views=frontal",
            ],
        )
    assert config.section == "findings"
    assert list(instantiate(config.source)) == list(source(home, views="frontal"))
