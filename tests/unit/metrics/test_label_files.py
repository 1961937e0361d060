import numpy as np
import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.chexpert import CONDITIONS, label_f1
from hardneg_plugin.metrics.label_files import LabelFiles, read_labels

CELLS = {1.0: "1.0", 0.0: "0", -1.0: "-1.0"}


def write(file, labels, *, conditions=CONDITIONS, id_column="id", extra=""):
    """A CSV of labels by study id; conditions in any order."""
    rows = [",".join([id_column, *([extra] if extra else []), *conditions])]
    for study, row in labels.items():
        by_name = dict(zip(CONDITIONS, row, strict=True))
        cells = [CELLS.get(by_name.get(name), "") for name in conditions]
        rows.append(",".join([study, *(["any text"] if extra else []), *cells]))
    file.write_text("\n".join(rows) + "\n")
    return str(file)


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    return [{f"s{i}": rng.choice([1.0, 0.0, -1.0, np.nan], size=14) for i in range(6)} for _ in range(2)]


def test_studies_and_conditions_are_found_by_name(tmp_path, labels):
    ours, theirs = labels
    generated = write(tmp_path / "a.csv", ours, conditions=CONDITIONS[::-1], id_column="study_id", extra="Reports")
    references = write(tmp_path / "b.csv", dict(reversed(theirs.items())), id_column="Study ID")
    metric = LabelFiles(generated, references, id_column="study_id", name="chexpert")
    metric.check()
    ids = ["s4", "s1", "s3"]
    scored = metric([""] * 3, [""] * 3, ids)
    drawn = [np.array([side[study] for study in ids]) for side in labels]
    expected = label_f1(drawn[0], drawn[1], "chexpert")
    assert scored.values == expected.values
    assert scored.columns == expected.columns


def test_labels_are_read_as_they_are(tmp_path, labels):
    write(tmp_path / "a.csv", labels[0])
    read = read_labels(tmp_path / "a.csv", "id")
    assert list(read) == list(labels[0])
    for study, row in labels[0].items():
        np.testing.assert_array_equal(read[study], row)


def edited(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))


WRONG = {
    "a value": (lambda file: edited(file, "s2,", "s2,2"), r"line 4, study 's2', column 'enlarged_card.*got '2"),
    "a word": (lambda file: edited(file, "s0,", "s0,yes"), r"line 2, study 's0'.*expected 1, 0, -1 or nothing.*'yes"),
    "a duplicate": (
        lambda file: edited(file, "s3,", "s1,"),
        r"line 5: study 's1' is repeated, after line 3",
    ),
    "a misspelt condition": (lambda file: edited(file, "Edema", "Oedema"), r'column "edema".*Rename "oedema"'),
    "a column less": (lambda file: edited(file, ",No Finding", ""), r"a\.csv"),
    "no ids": (lambda file: edited(file, "id,", "dicom,"), r'column "id" in .*a\.csv'),
    "no studies": (lambda file: file.write_text(file.read_text().splitlines()[0]), "at least one study in .*a.csv"),
    "no file": (lambda file: file.unlink(), r"a\.csv, but it cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path, labels, case):
    write(tmp_path / "a.csv", {study: np.full(14, np.nan) for study in labels[0]})
    references = write(tmp_path / "b.csv", labels[1])
    edit, message = WRONG[case]
    edit(tmp_path / "a.csv")
    with pytest.raises(UserError, match=message) as raised:
        LabelFiles(str(tmp_path / "a.csv"), references).check()
    assert "\n" not in str(raised.value)


def test_missing_studies_are_counted_and_one_is_named(tmp_path, labels):
    metric = LabelFiles(write(tmp_path / "a.csv", labels[0]), write(tmp_path / "b.csv", labels[1]))
    with pytest.raises(
        UserError, match=r"labels of 3 studies in .*a\.csv, but 2 are missing, such as 'x1'.*ids like 's0'"
    ):
        metric([""] * 3, [""] * 3, ["s0", "x1", "x2"])
