"""Files of a later version of the format: refused with one line by every verb that reads, never taken for damage, and
never passed over."""

import json
import re
import shutil

import pytest
import warm_processes
from shard_rows import GOLDEN, TINY
from written_runs import write_boards

import expkit
from expkit.errors import NewerFormat, ShardError
from expkit.formats.shard import ShardReader, ShardWriter, check_shard, seal_shard
from expkit.formats.shard.layout import FILE_HEADER, pack_file_header
from expkit.reading.opening import open_run
from expkit.validation.glance import header_at_a_glance
from expkit.validation.validate import validate_shard


def of_version(data, version=2, flags=0, expkit="9.1.0"):
    """The bytes of a shard with another version and flags in a header that is sound."""
    length = FILE_HEADER.unpack_from(data)[3]
    tree = json.loads(data[FILE_HEADER.size : FILE_HEADER.size + length]) | {"expkit": expkit}
    header = bytearray(pack_file_header(tree, version))
    if flags:
        from zlib import crc32

        header[10:12] = flags.to_bytes(2, "little")
        header[16:20] = crc32(header[20:], crc32(header[:16])).to_bytes(4, "little")
    return bytes(header) + data[FILE_HEADER.size + length :]


@pytest.mark.parametrize(
    ("version", "flags", "writer", "said"),
    [
        (2, 0, "9.1.0", "format version 2, written by expkit 9.1.0"),
        (1, 4, "1.0rc1+local", "format version 1 with flags 0x4, written by expkit 1.0rc1+local"),
        (0, 0, "0.0.1", "format version 0, written by expkit 0.0.1"),
        (65535, 65535, "", "format version 65535 with flags 0xffff, written by a newer expkit"),
        (2, 0, "9\n\x1b[31m1", "written by a newer expkit"),
        (2, 0, "9" * 33, "written by a newer expkit"),
        (2, 0, ["9.1.0"], "written by a newer expkit"),
    ],
)
def test_the_line_says_who_wrote_it_what_is_read_and_what_to_do(tmp_path, version, flags, writer, said):
    path = tmp_path / "a.exp"
    path.write_bytes(of_version((GOLDEN / "tiny.exp").read_bytes(), version, flags, writer))
    with pytest.raises(NewerFormat) as error:
        ShardReader(path)
    line = str(error.value)
    assert line.startswith(f"{path} is in ")
    assert said in line
    assert f"this is expkit {expkit.__version__}, which reads version 1: update expkit" in line
    assert line.endswith(f" to {writer} or later") == (isinstance(writer, str) and writer in said and writer != "")
    assert line.isprintable()
    assert [finding.rule for finding in check_shard(path)] == ["file/version"]
    assert header_at_a_glance(path) is None
    data = path.read_bytes()
    for touch in (seal_shard, ShardWriter.resume):
        with pytest.raises(NewerFormat):
            touch(path)
    assert path.read_bytes() == data


def test_a_header_that_is_no_json_any_more_is_refused_alike(tmp_path):
    from zlib import crc32

    path = tmp_path / "a.exp"
    text = b"\xff not JSON" * 3
    fixed = FILE_HEADER.pack(b"\x89EXP\r\n\x1a\n", 3, 0, len(text), 0)[:-4]
    path.write_bytes(fixed + crc32(text, crc32(fixed)).to_bytes(4, "little") + text)
    with pytest.raises(NewerFormat, match="format version 3, written by a newer expkit"):
        ShardReader(path, schema=TINY)


def test_a_flipped_bit_of_the_version_is_damage(tmp_path):
    """The checksum is judged before the version."""
    data = (GOLDEN / "tiny.exp").read_bytes()
    path = tmp_path / "a.exp"
    for bit in range(32):
        hurt = bytearray(data)
        hurt[8 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        assert [finding.rule for finding in check_shard(path)] == ["file/header"]
        with ShardReader(path) as reader:
            assert [block.rows for block in reader.blocks] == [24, 24]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """good, and `newer` with two shards of which the second is of version 2."""
    folder = tmp_path_factory.mktemp("runs")
    write_boards(folder / "good", episodes=2)
    shutil.copytree(folder / "good", folder / "newer")
    shard = folder / "newer/shards/w0/000000.exp"
    (shard.parent / "000001.exp").write_bytes(of_version(shard.read_bytes()))
    return folder


def test_a_run_with_a_newer_shard_does_not_pass_it_over(runs):
    with open_run(runs / "newer") as run:
        for ask in (
            lambda: len(run),
            run.episodes,
            lambda: run.bytes,
            lambda: run.steps,
            lambda: list(run.scan(["reward"], damaged="skip")),
            lambda: run.rows(0, 0),
            lambda: list(run.blocks(unreadable="skip")),
        ):
            with pytest.raises(NewerFormat, match=r"000001\.exp"):
                ask()


@pytest.mark.parametrize("extra", [[], ["--json"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "newer"],
        ["inspect", "newer", "--episode", "0"],
        ["inspect", "newer/shards/w0/000001.exp"],
        ["validate", "newer"],
        ["validate", "newer", "--quick"],
        ["validate", "newer/shards/w0/000001.exp"],
        ["replay", "newer", "--step", "1"],
        ["list", "."],
    ],
    ids=" ".join,
)
def test_every_verb_that_reads_exits_4_with_one_line(runs, arguments, extra):
    done = warm_processes.expkit(*arguments, *extra, cwd=runs)
    assert done.returncode == 4, done
    line = r"[^\n]*000001\.exp is in format version 2, written by expkit 9\.1\.0; [^\n]* to 9\.1\.0 or later"
    if arguments[0] == "validate":  # whose findings are its output
        found = json.loads(done.stdout)["findings"] if extra else done.stdout.splitlines()
        told = [str(entry) for entry in found if re.search(line, str(entry))]
        assert len(told) == 1, done.stdout
        assert done.stderr == ("" if extra else f"next: expkit inspect {arguments[1]}\n")
        return
    if not extra:
        assert re.fullmatch(rf"expkit {arguments[0]}: {line}\n", done.stderr), done.stderr
        assert ("good" in done.stdout) == (arguments[0] == "list")  # which goes on to the other runs
        return
    assert done.stderr == ""
    page = json.loads(done.stdout)
    if arguments[0] == "list":
        assert {run["run"]: run["state"] for run in page["runs"]} == {"good": "closed", "newer": "newer"}
        page = page["runs"][1]
    assert re.search(line, str(page["error"]))


def test_a_newer_shard_by_itself_validates_to_that(runs):
    for level in ("quick", "full"):
        findings, rows = validate_shard(runs / "newer/shards/w0/000001.exp", level)
        assert [(finding.severity, finding.rule) for finding in findings] == [("error", "file/version")]
        assert rows == 0
    assert issubclass(NewerFormat, ShardError)
