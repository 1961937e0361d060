import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardneg_plugin.data.downloads.archives import read_members
from hardneg_plugin.errors import UserError

FILES = {
    "a/1.xml": b"one",
    "a/2.XML": b"x" * 512,
    "a/b/3.xml": b"y" * 70_000,
    "a/readme.txt": b"t",
    "a/._1.xml": b"mac",
}
READ = [("a/1.xml", b"one"), ("a/2.XML", b"x" * 512), ("a/b/3.xml", b"y" * 70_000)]


def tar_of(*members, **options):
    """Of (name, content) or of TarInfo, one that is not a file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return stream.getvalue()


def zip_of(*members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def linked_in_zip():
    info = zipfile.ZipInfo("a/link.xml")
    info.external_attr = 0o120777 << 16
    return info


def error(source, **options):
    with pytest.raises(UserError) as caught:
        list(read_members(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


TAR = tar_of(special("a", tarfile.DIRTYPE), *FILES.items())


@pytest.mark.parametrize(
    "content",
    [
        TAR,
        gzip.compress(TAR),
        bz2.compress(TAR),
        lzma.compress(TAR),
        zip_of(*FILES.items()),
        tar_of(*FILES.items(), format=tarfile.PAX_FORMAT, pax_headers={"comment": "c"}),
        tar_of(special("./", tarfile.DIRTYPE), *((f"./{name}", content) for name, content in FILES.items())),
    ],
    ids=["tar", "gz", "bz2", "xz", "zip", "pax", "dots"],
)
def test_every_kind_gives_the_same_files_in_order(tmp_path, content):
    source = tmp_path / "archive"  # no name to tell the kind by
    source.write_bytes(content)
    assert [(name.removeprefix("./"), content) for name, content in read_members(source, suffix=".xml")] == READ


def test_a_folder_gives_the_same_files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(read_members(tmp_path, suffix=".xml")) == READ
    assert "at most 600 bytes" in error(tmp_path, suffix=".xml", limit=600)
    assert list(read_members(tmp_path, suffix=".txt", limit=1)) == [("a/readme.txt", b"t")]


def test_nothing_is_written_beside_the_archive(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(TAR))
    list(read_members(tmp_path / "a.tgz"))
    assert os.listdir(tmp_path) == ["a.tgz"]


def oversized_header():
    """A long name of 8 GiB, announced by 512 bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33 - 1
    return info.tobuf(tarfile.GNU_FORMAT)


GOOD = ("a/1.xml", b"one")
CHECKED = tar_of(GOOD, ("a/2.xml", b"z" * 2000), ("a/3.xml", b"end"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of(GOOD, special("l.xml", tarfile.SYMTYPE, "/etc/passwd")), "'l.xml' is a link or a device"),
        (tar_of(GOOD, special("l.xml", tarfile.LNKTYPE, "a/1.xml")), "'l.xml' is a link"),
        (tar_of(GOOD, special("dev.txt", tarfile.CHRTYPE)), "'dev.txt' is a link or a device"),
        (tar_of(GOOD, special("pipe", tarfile.FIFOTYPE)), "'pipe' is a link or a device"),
        (tar_of(GOOD, ("../up.xml", b"")), "'../up.xml' has a path that leaves"),
        (tar_of(("a/../../up.txt", b"")), "has a path that leaves"),
        (tar_of(("/etc/cron.d/x.xml", b"")), "'/etc/cron.d/x.xml' has a path that leaves"),
        (tar_of(("..\\up.xml", b"")), "has a path that leaves"),
        (zip_of(GOOD, ("../up.xml", b"")), "'../up.xml' has a path that leaves"),
        (zip_of(("/abs.xml", b"")), "'/abs.xml' has a path that leaves"),
        (zip_of(("C:\\abs.xml", b"")), "has a path that leaves"),
        (zip_of((linked_in_zip(), b"/etc/passwd")), "'a/link.xml' is a link"),
        (gzip.compress(tar_of(GOOD, ("big.xml", bytes(5000)))), "'big.xml' is larger"),
        (zip_of(GOOD, ("big.xml", bytes(5000))), "'big.xml' is larger"),
        (oversized_header(), "'the first' is larger"),
        (tar_of(GOOD)[:1024] + oversized_header(), "\"after 'a/1.xml'\" is larger"),
        (b"", "is none of them (empty file)"),
        (b"<html>Not found</html>" * 100, "is none"),
        (b"\x1f\x8b" + b"junk" * 100, "truncated or corrupt"),
        (gzip.compress(CHECKED)[:60], "truncated or corrupt"),
        (gzip.compress(CHECKED)[:-9], "truncated or corrupt"),
        (gzip.compress(CHECKED)[:-8] + b"\0" * 8, "truncated or corrupt (CRC"),
        (CHECKED[:600], "truncated or corrupt"),
        (CHECKED[:1024], "after 'a/1.xml': no end mark"),
        (CHECKED[:1200], "after 'a/1.xml': no end mark"),
        (CHECKED[:2000], "at 'a/2.xml'"),
        (CHECKED[:1024] + b"!" * 512 + CHECKED[1536:], "after 'a/1.xml': no end mark"),
        (zip_of(GOOD)[:-30], "truncated or corrupt"),
        (zip_of(GOOD).replace(b"a/1.xml", b"a/0.xml", 1), "at 'a/1.xml': File name in directory"),
    ],
    ids=lambda value: "archive" if isinstance(value, bytes) else None,  # it holds the time when it was made
)
def test_what_is_malicious_or_broken_ends_in_one_line(tmp_path, content, message):
    source = tmp_path / "archive"
    source.write_bytes(content)
    assert message in error(source, suffix=".xml", limit=4000)
    assert os.listdir(tmp_path) == ["archive"]


def test_an_encrypted_zip(tmp_path):
    source = tmp_path / "a.zip"
    content = bytearray(zip_of(GOOD))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    assert "'a/1.xml' is encrypted" in error(source)


def test_nothing_there(tmp_path):
    assert "there is none" in error(tmp_path / "gone.tgz")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_archives_are_read_or_explained(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from([TAR[:4096], TAR, gzip.compress(CHECKED), zip_of(*FILES.items())])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    source = tmp_path_factory.mktemp("fuzz") / "archive"
    source.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    explained = ""
    try:
        members = list(read_members(source))
    except UserError as caught:
        members, explained = [], str(caught)
    assert all(isinstance(content, bytes) for _, content in members)
    assert not explained or str(source) in explained
