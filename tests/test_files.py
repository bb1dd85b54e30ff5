"""Files: what is written appears whole or not at all, follows no planted link; what is read has an end."""

import io
import os
import resource
import stat
import sys
import threading

import pytest

from plandsl.cli import main
from plandsl.diagnostics import PlanError, clip
from plandsl.files import NOT_ORDINARY, SHOWN, read_file, write_file, write_whole
from plandsl.limits import MAX_FILE_BYTES

PLAN = """plan p {
  model = llama_3_1_8b, node = h100_8
  workload { input = 512, output = 64, batch = 4 }
}
"""
SEARCH = """search s {
  model = llama_3_1_8b, node = h100_8, workload { input = 512, output = 64 }
  vary tp in [1, 2], batch in [1, 4]
}
"""
GEMMS = "gpu,dtype,m,n,k,time_s\n" + "".join(f"h100_sxm,bf16,{2**i},4096,4096,{1e-5 + i * 1e-6}\n" for i in range(12))


def formatted(folder, name):
    (folder / name).write_text(PLAN.replace("  model", "model"))
    return ["fmt", folder / name]


def planned(folder, *arguments):
    (folder / "p.plan").write_text(PLAN)
    return [*arguments, folder / "p.plan"]


def searched(folder, *arguments):
    (folder / "s.plan").write_text(SEARCH)
    return ["search", folder / "s.plan", *arguments]


def calibrated(folder, name):
    (folder / "gemm.csv").write_text(GEMMS)
    return ["calibrate", folder / "gemm.csv", "-o", folder / name]


WRITERS = {
    "fmt": ("a.plan", formatted),
    "dot": ("a.dot", lambda folder, name: [*planned(folder, "render"), "-o", folder / name]),
    "best": ("a.plan", lambda folder, name: searched(folder, "-o", folder / name)),
    "rows": ("a.csv", lambda folder, name: searched(folder, "--rows", folder / name)),
    "parquet": ("a.parquet", lambda folder, name: searched(folder, "--rows", folder / name)),
    "plot": ("a.svg", lambda folder, name: searched(folder, "--plot", folder / name)),
    "calibrate": ("a.plan", calibrated),
}
"""Everything of `planc` that writes a file: a name for the file, and what makes the command that writes it."""

NEEDS = {"parquet": "pyarrow", "plot": "matplotlib"}


@pytest.fixture(params=WRITERS)
def writer(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return WRITERS[request.param]


def run(arguments):
    return main([str(a) for a in arguments])


def failure(act):
    with pytest.raises(PlanError) as caught:
        act()
    (found,) = caught.value.diagnostics
    return found.code, found.message


def write_half(path, stop):
    with write_whole(path) as file:
        file.write(b"half")
        file.flush()
        raise stop


# ---- writing


def test_no_planted_name_is_written_to(writer, tmp_path):
    name, command = writer
    arguments = command(tmp_path, name)
    (tmp_path / "victim").write_text("keep")
    stem, suffix = os.path.splitext(name)
    (tmp_path / f".{name}.tmp").symlink_to("victim")
    (tmp_path / f".{stem}.tmp{suffix}").write_text("keep this too")
    before = set(os.listdir(tmp_path))
    assert run(arguments) == 0
    assert (tmp_path / "victim").read_text() == "keep"
    assert (tmp_path / f".{name}.tmp").is_symlink()
    assert (tmp_path / f".{stem}.tmp{suffix}").read_text() == "keep this too"
    assert set(os.listdir(tmp_path)) == before | {name}
    assert (tmp_path / name).stat().st_size


def test_an_existing_file_keeps_its_mode_and_its_link(writer, tmp_path):
    name, command = writer
    arguments = command(tmp_path, name)
    (tmp_path / "deep").mkdir()
    real = tmp_path / "deep" / name
    if (tmp_path / name).exists():
        (tmp_path / name).rename(real)
    else:
        real.write_text("old")
    (tmp_path / name).symlink_to(real)
    real.chmod(0o640)
    old = real.read_bytes()
    assert run(arguments) == 0
    assert (tmp_path / name).is_symlink()
    assert os.listdir(tmp_path / "deep") == [name]
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_bytes() != old


def test_a_full_disk_is_a_diagnostic_and_leaves_the_old_file(writer, tmp_path, capsys):
    name, command = writer
    arguments = command(tmp_path, name)
    if not (tmp_path / name).exists():
        (tmp_path / name).write_text("old")
    old, files = (tmp_path / name).read_bytes(), set(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        status = run(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    said = capsys.readouterr().err
    assert f"cannot write {clip(str(tmp_path / name), SHOWN)}" in said
    assert "File too large" in said
    assert (tmp_path / name).read_bytes() == old
    assert set(os.listdir(tmp_path)) == files


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_what_stops_in_the_middle_leaves_the_old_file_alone(tmp_path, stop):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(stop):
        write_half(path, stop)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "x", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_even_a_guessed_name_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / "victim").write_text("keep")
    (tmp_path / f".x-{'00' * 8}.tmp").symlink_to("victim")
    assert failure(lambda: write_file(tmp_path / "x", "text"))[0] == "E405"
    assert (tmp_path / "victim").read_text() == "keep"
    assert not (tmp_path / "x").exists()


def test_a_link_to_nothing_makes_the_file_it_names(tmp_path):
    (tmp_path / "x").symlink_to("y")
    write_file(tmp_path / "x", "text")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "y").read_text() == "text"


def test_places_that_cannot_be_written_are_diagnosed(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    names = {"folder": "it is a folder", "no/x": "there is no folder", "file/x": "there is no folder",
             "n" * 300: "too long", "\0": "null", "loop": "symbolic links"}  # fmt: skip
    for name, why in names.items():
        code, message = failure(lambda name=name: write_file(tmp_path / name, "text"))
        assert code == "E405"
        assert why in message
        assert len(message) < 200
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "loop"]

    def forbidden(*arguments, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    assert "Permission denied" in failure(lambda: write_file(tmp_path / "x", "text"))[1]


def test_a_pipe_gets_the_whole_or_nothing(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError)  # had it been opened, nobody would read, and this would wait
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_file(path, "text")
    reader.join()
    assert got == [b"text"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_stays_a_device():
    write_file(os.devnull, "text")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert "No space left" in failure(lambda: write_file("/dev/full", "text"))[1]


def test_standard_output_by_its_name_joins_what_is_printed(tmp_path, capfd):
    sys.stdout.write("before ")
    write_file("/dev/stdout", "text")
    sys.stdout.write(" after")
    sys.stdout.flush()
    assert capfd.readouterr().out == "before text after"


# ---- reading


class Endless(io.RawIOBase):
    """A stream like /dev/zero, which tells how much of it was read."""

    def __init__(self):
        self.taken = 0

    def readable(self):
        return True

    def readinto(self, into):
        self.taken += len(into)
        return len(into)


@pytest.mark.parametrize("verb", ["check", "compile", "fmt", "explain", "search"])
def test_standard_input_is_bounded_like_a_file(verb, monkeypatch, capsys):
    stream = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stream)))
    assert main([verb, "-"]) == 2
    assert "error[E108]: the file is too large" in capsys.readouterr().err
    assert stream.taken <= MAX_FILE_BYTES + io.DEFAULT_BUFFER_SIZE + 1


@pytest.mark.parametrize("verb", ["check", "fmt"])
def test_closed_standard_input_is_a_diagnostic(verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main([verb, "-"]) == 2
    assert "error[E209]: cannot read <stdin>: it is closed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "compile", "fmt", "explain", "search"])
def test_a_pipe_or_a_device_is_no_plan_file(verb, tmp_path, capsys):
    os.mkfifo(tmp_path / "p.plan")
    for path in (tmp_path / "p.plan", "/dev/zero"):
        assert run([verb, path]) == 2
        told = capsys.readouterr().err
        assert f"error[E209]: cannot read {path}: {NOT_ORDINARY}" in told


def test_a_pipe_or_a_device_is_no_config(tmp_path, capsys):
    os.mkfifo(tmp_path / "config.json")
    assert run(["catalog", "model", tmp_path / "config.json"]) == 2
    assert NOT_ORDINARY in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["calibrate", "accuracy", "import"])
def test_a_pipe_is_no_file_of_measurements_and_no_script(verb, tmp_path, capsys):
    """It is told from a file of no known kind, alone and in a folder."""
    os.mkfifo(tmp_path / "gemm.csv")
    written = ["-o", tmp_path / "out.plan"] if verb == "calibrate" else []
    for place in (tmp_path / "gemm.csv", tmp_path):
        if place.is_dir() and verb == "import":
            continue
        assert run([verb, place, *written]) == 2
        assert f"cannot read {tmp_path / 'gemm.csv'}: {NOT_ORDINARY}" in capsys.readouterr().err
    assert not (tmp_path / "out.plan").exists()


def test_a_file_is_cut_one_byte_past_the_bound(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert [read_file(tmp_path / "x", most) for most in (3, 4, 5)] == [b"1234", b"12345", b"12345"]
