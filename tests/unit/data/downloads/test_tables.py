import pytest

from hardneg_plugin.data.downloads.tables import check_columns, column_name, read_lines, read_table
from hardneg_plugin.errors import UserError


def table(tmp_path, content):
    file = tmp_path / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_with_their_lines(tmp_path, start, end):
    text = start + end.join(['Study ID,"Image-Path",', '1,"a ""b"", c",0', "", '2,"two', 'lines",1', "É,x,2"])
    assert list(read_table(table(tmp_path, text))) == [
        (2, {"study_id": "1", "image_path": 'a "b", c'}),
        (4, {"study_id": "2", "image_path": f"two{end}lines"}),
        (6, {"study_id": "É", "image_path": "x"}),
    ]


def test_tabs(tmp_path):
    assert list(read_table(table(tmp_path, "a\tb\n1,2\t3\n"), delimiter="\t")) == [(2, {"a": "1,2", "b": "3"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has none"),
        ("\n\n", "has none"),
        (",,\n1,2,3\n", "has none"),
        ("a,b,A\n", r"\['a'\] twice"),
        ("a,b\n1,2\n3\n", "Expected 2 cells.*line 3 has 1"),
        ("a,b\n\n1,2,3\n", "line 3 has 3"),
        ('a,b\n1,"2\n3,4\n', "line 2 cannot be read .*Is a quote left open"),
        ('a,b\n1,"2"3\n', "line 2 cannot be read"),
        ("a,b\n1," + "x" * 140_000 + "\n", "line 2 cannot be read .field larger than field limit"),
        ("a,b\r1,2\r", "line 1 cannot be read"),
        (b"a,b\n1,caf\xe9\n", "UTF-8, but line 2 has the byte 0xe9"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1 has the byte 0xff"),
        ("a,b\n1,2\n".encode("utf-16-le"), "line 1 has a NUL"),
        ("a,b\n1,\0\n", "line 2 has a NUL"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    file = table(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_table(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lines_too_long(tmp_path):
    file = table(tmp_path, "12345\n123456")
    assert list(read_lines(file, longest=6)) == ["12345\n", "123456"]
    assert list(read_lines(file, longest=None)) == ["12345\n", "123456"]
    with pytest.raises(UserError, match="line 1 is longer than 5 bytes"):
        list(read_lines(file, longest=5))


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        list(read_table(tmp_path / "gone.csv"))
    with pytest.raises(UserError, match="Is a directory"):
        list(read_table(tmp_path))


def test_columns_that_lack(tmp_path):
    check_columns(tmp_path, {"a": 1, "b": 2}, ["a"])
    with pytest.raises(UserError, match=r'column "filename".*\[\'file_name\', \'x\'\]. Rename "file_name"\?'):
        check_columns(tmp_path, ["x", "file_name"], ["x", "filename"])


def test_names_are_compared_leniently():
    assert {column_name(name) for name in ("Study ID", "study-id", " STUDY_ID ")} == {"study_id"}
