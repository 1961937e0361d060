"""Predictions of other systems: every format and encoding gives the texts as they stand, and pycocoevalcap's scores of them."""

import csv
import io
import json

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.prediction_files import read_any_predictions
from hardneg_plugin.metrics.record_scores import score_records

IDS = ["CXR1_IM-1", "CXR2_IM-2", "CXR3_IM-3"]
GENERATED = [
    "the heart is  normal . no  effusion .",
    "clear lungs\nno effusion .",
    "café au\u00a0lait , “hazy” left base .",
]
REFERENCES = [
    "the heart is normal .  no pleural effusion .",
    "lungs\nno effusion .",
    'café au lait , "hazy"  right base .',
]


def dumped(value, **options):
    return json.dumps(value, ensure_ascii=False, **options)


def as_table(delimiter, *, names=("id", "reference", "generated")):
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    table.writerow(names)
    table.writerows(zip(IDS, REFERENCES, GENERATED, strict=True))
    return text.getvalue()


RECORDS = [{"id": i, "reference": r, "generated": g} for i, r, g in zip(IDS, REFERENCES, GENERATED, strict=True)]
OTHERS = [{"study_id": r["id"], "gt": r["reference"], "pred": r["generated"]} for r in RECORDS]
BY_ID = {r["id"]: {"prediction": r["generated"], "target": [r["reference"]]} for r in RECORDS}
COCO_RESULTS = [{"image_id": i, "caption": g} for i, g in zip(IDS, GENERATED, strict=True)]
COCO = {
    "images": [{"id": i} for i in IDS],
    "annotations": [
        {"id": 7 * n, "image_id": i, "caption": r} for n, (i, r) in enumerate(zip(IDS, REFERENCES, strict=True))
    ],
}
REXRANK = {
    i: {"key_image_path": f"{i}/0.png", "subject_id": 4, "report": r, "model_prediction": g}
    for i, r, g in zip(IDS, REFERENCES, GENERATED, strict=True)
}
FORMATS = {
    "our lines": ("\n".join(map(dumped, RECORDS)), None),
    "lines of others": ("\n".join(map(dumped, OTHERS)), None),
    "records": (dumped(RECORDS, indent=1), None),
    "records of one line": (dumped(RECORDS), None),
    "records by id": (dumped(BY_ID, indent=2), None),
    "rexrank": (dumped(REXRANK), None),
    "texts by id": (dumped(dict(zip(IDS, GENERATED, strict=True))), dumped(dict(zip(IDS, REFERENCES, strict=True)), indent=2)),
    "lists by id": (
        dumped({i: [g] for i, g in zip(IDS, GENERATED, strict=True)}),
        dumped({i: [r] for i, r in zip(reversed(IDS), reversed(REFERENCES), strict=True)}),
    ),
    "coco": (dumped(COCO_RESULTS), dumped(COCO)),
    "r2gen's annotation": (
        dumped({i: [g] for i, g in zip(IDS, GENERATED, strict=True)}),
        dumped({"test": [{"id": i, "report": r, "image_path": ["0.png"]} for i, r in zip(IDS, REFERENCES, strict=True)]}),
    ),
    "csv": (as_table(","), None),
    "tsv": (as_table("\t"), None),
    "semicolons": (as_table(";", names=("Study ID", "Ground Truth", "Generated Report")), None),
}  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_every_encoding_gives_the_texts_as_they_stand(tmp_path, form, encoding):
    contents = FORMATS[form]
    files = [tmp_path / "theirs", tmp_path / "references"]
    for file, content in zip(files, contents, strict=True):
        if content is not None:
            file.write_bytes(content.encode(encoding))
    found = read_any_predictions(files[0], files[1] if contents[1] is not None else None)
    assert [record["id"] for record in found.records] == IDS
    assert (found.generated, found.references) == (GENERATED, REFERENCES)
    assert found.records[2]["generated"] == 'café au lait , "hazy" left base .'
    plain = encoding in ("utf-8", "utf-8-sig")
    assert found.notes == (
        [] if plain else [f"{f}: read as {encoding}." for f, c in zip(files, contents, strict=True) if c]
    )


@pytest.mark.parametrize("form", FORMATS)
def test_scores_are_pycocoevalcaps_on_the_texts_as_given(tmp_path, form):
    theirs, references = FORMATS[form]
    (tmp_path / "theirs").write_text(theirs)
    if references is not None:
        (tmp_path / "references").write_text(references)
    found = read_any_predictions(tmp_path / "theirs", None if references is None else tmp_path / "references")
    given = (found.generated, found.references)
    values = score_records(found.records, caption=CaptionScores(meteor=False, as_given=True), given=given).values
    by_id = (
        {i: [r] for i, r in zip(IDS, REFERENCES, strict=True)},
        {i: [g] for i, g in zip(IDS, GENERATED, strict=True)},
    )
    bleu, rouge, cider = (
        metric.compute_score(*by_id, **more)[0]
        for metric, more in ((Bleu(4), {"verbose": 0}), (Rouge(), {}), (Cider(), {}))
    )
    expected = {**{f"BLEU-{n}": score for n, score in enumerate(bleu, 1)}, "ROUGE-L": rouge, "CIDEr": cider}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    seen = score_records(found.records, caption=CaptionScores(meteor=False)).values
    assert abs(seen["ROUGE-L"] - rouge) > 1e-3, "the texts hold runs of blanks, which the two count differently"
    assert found.unlike_seen() == 6


@pytest.mark.slow
def test_meteor_of_texts_as_given_is_pycocoevalcaps():
    from pycocoevalcap.meteor.meteor import Meteor

    generated, references = [
        ["the  heart is normal .", "hazy  left base ."],
        ["the heart is  big .", "hazy right base  ."],
    ]
    theirs, _ = Meteor().compute_score(
        {i: [t] for i, t in enumerate(references)}, {i: [t] for i, t in enumerate(generated)}
    )
    ours = CaptionScores(as_given=True)(generated, references).values
    assert ours["METEOR"] == pytest.approx(theirs, abs=1e-6)


def read(tmp_path, theirs, references=None, **columns):
    (tmp_path / "theirs").write_text(theirs)
    if references is not None:
        (tmp_path / "references").write_text(references)
    return read_any_predictions(tmp_path / "theirs", None if references is None else tmp_path / "references", columns)


def test_columns_are_named_where_they_are_not_found(tmp_path):
    table = "uid,hyp2,clean,report\n1,no effusion,left effusion,raw\n2,clear,clear,raw\n"
    found = read(tmp_path, table, generated="hyp2", reference="clean")
    assert (found.generated, found.references) == (["no effusion", "clear"], ["left effusion", "clear"])
    with pytest.raises(
        UserError, match=r"expected a column of generated texts, but its columns are uid, hyp2, clean, words"
    ):
        read(tmp_path, table.replace("report", "words"))
    with pytest.raises(UserError, match=r"columns\.generated: expected a column of .*, but got 'hyp3'"):
        read(tmp_path, table, generated="hyp3")


def test_a_table_of_pandas_without_ids_is_numbered(tmp_path):
    found = read(tmp_path, ",gts,res\n0,clear lungs,clear\n1,effusion,\n2,,no\n")
    assert [record["id"] for record in found.records] == ["1", "2"]
    assert found.generated == ["clear", ""]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "no column of ids, so studies are numbered as they stand there.",
        "studies without a reference, left out: 1.",
        "generated reports that are missing, scored as empty: 1.",
    ]


def test_nan_is_a_missing_text_and_further_references_are_told(tmp_path):
    found = read(
        tmp_path, '{"a": NaN, "b": ["clear"], "c": ["x"]}', '{"a": ["one"], "b": ["two"], "c": NaN, "d": ["four"]}'
    )
    assert [(record["id"], record["generated"]) for record in found.records] == [("a", ""), ("b", "clear")]
    assert found.notes[0] == f"{tmp_path / 'references'}: references without a prediction, left out of the scores: 1."


WRONG = {
    "empty": ("", None, "but it is empty"),
    "nothing of a table": ("no effusion .", None, "Expected JSON, or a table with the names of its columns"),
    "broken json": ('{\n"a": [}', None, "expected JSON, but line 2"),
    "repeated key": ('{"a": ["x"], "a": ["y"]}', '{"a": ["x"]}', "'a' is there twice"),
    "repeated row": ("id,pred,gt\na,x,y\na,x,y\n", None, "line 3: study 'a' is repeated (line 2)"),
    "two references": ('{"a": ["x"]}', '{"a": ["x", "y"]}', "a: expected one text, but got a list of 2"),
    "no reference": ('{"a": ["x"], "b": ["y"]}', '{"a": ["x"]}', "'b' has none (so have 1 of 2)"),
    "references of their own": ('{"a": ["x"]}', None, "Name the file of the references by references=FILE"),
    "a number": ('{"a": [3]}', '{"a": ["x"]}', 'expected a text under "text", but got a number'),
    "no id": ("id,pred,gt\n,x,y\n", None, "line 2: expected an id under \"id\", but got ''"),
    "two of one side": ("id,pred,hyp,gt\na,x,y,z\n", None, "pred and hyp may be the generated texts"),
    "a row too short": ("id,pred,gt\na,x\n", None, "Expected 3 cells in each row"),
    "only missing references": ("id,pred,gt\na,x,nan\n", None, "all 1 lack it"),
    "not coco": ('[{"image_id": 1, "caption": "x"}]', '{"annotations": [{"id": 1, "caption": "x"}]}', 'expected "image_id" and'),
    "list of numbers": ("[1, 2]", None, "entry 1: expected an object, but got a number"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_in_one_line(tmp_path, wrong):
    theirs, references, told = WRONG[wrong]
    with pytest.raises(UserError) as error:
        read(tmp_path, theirs, references)
    assert told in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_told(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    with pytest.raises(UserError, match=r"Expected a text file of predictions, but .*x\.csv is none"):
        read_any_predictions(tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_any_predictions(tmp_path / "y.csv")
    with pytest.raises(UserError, match="columns: expected keys among id, generated, reference, but got text"):
        read_any_predictions(tmp_path / "x.csv", columns={"text": "a"})
