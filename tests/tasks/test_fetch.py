"""`ctxbench data fetch` against a small server: resumes, compares, mirrors, says what it does."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ctxbench.cli import main
from ctxbench.core.assets import data_dirs, find_data
from ctxbench.tasks import fetching, web_file
from ctxbench.tasks.digests import RECORD
from ctxbench.tasks.fetching import FAMILIES, DataSet, mirrored, parse_mirrors, wanted
from ctxbench.tasks.hub import HubFile
from ctxbench.tasks.web_file import WebFile, ask, download

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several blocks
COMMIT = "0123456789" * 4


class Server(ThreadingHTTPServer):
    """Serves `files`; `break_after` bytes of a reply it hangs up, as often as `breaks` says."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks, self.break_after = 0, len(CONTENT) // 3
        self.ranges, self.etags = True, True
        self.asked: list[tuple[str, str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hung up is no output of a test."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.reply(False)

    def do_GET(self):
        self.reply(True)

    def reply(self, body: bool):
        server, asked = self.server, self.headers.get("Range", "")
        server.asked.append((self.command, self.path, asked))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        begin = 0
        if asked and server.ranges and self.headers.get("If-Range", etag) == etag:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        if server.etags:
            self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return None
        part = content[begin:]
        if server.breaks:
            server.breaks -= 1
            part = part[: server.break_after]
        self.wfile.write(part)
        server.sent += len(part)
        self.close_connection = True
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CTXBENCH_DATA", raising=False)
    monkeypatch.setattr(web_file, "_PAUSES", (0, 0))


@pytest.fixture
def family(server, monkeypatch):
    """A family of one file: of known digest, or of none."""

    def make(content=CONTENT, known=True, **entries):
        server.files["/a/x.json"] = content
        digest = hashlib.sha256(CONTENT).hexdigest() if known else None
        file = WebFile(
            name="folder/x.json", urls=("https://away.example/a/x.json",), sha256=digest, **entries
        )
        data = DataSet("letters", "CC0", file)
        monkeypatch.setattr(fetching, "FAMILIES", {"small": (data,), "mini": ()})
        return ["data", "fetch", "small", "--mirror", f"https://away.example={server.url}"]

    return make


def gets(server) -> list[str]:
    return [asked for command, _, asked in server.asked if command == "GET"]


def test_a_family_is_fetched_where_tasks_look(server, family, tmp_path, capsys):
    command = family()
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "folder/x.json: letters, 5.1 MB; licence: CC0" in said
    assert server.url in said
    assert gets(server) == []
    assert main(command) == 0
    found = find_data("folder/x.json")
    assert found == tmp_path / "cache" / "data" / "folder" / "x.json"
    assert found.read_bytes() == CONTENT
    assert main(command) == 0
    assert "here already" in capsys.readouterr().out
    assert len(gets(server)) == 1
    assert sorted(p.name for p in found.parent.iterdir()) == [".x.json.lock", "x.json"]


def test_it_goes_into_the_users_folder(family, tmp_path, monkeypatch, capsys):
    command = family()
    assert main([*command, "--output", str(tmp_path / "mine")]) == 0
    assert f"CTXBENCH_DATA={tmp_path / 'mine'}" in capsys.readouterr().out
    assert (tmp_path / "mine" / "folder" / "x.json").is_file()
    monkeypatch.setenv("CTXBENCH_DATA", str(tmp_path / "other"))
    assert main(command) == 0
    assert find_data("folder/x.json") == data_dirs()[0] / "folder" / "x.json"


def test_a_connection_that_breaks_is_gone_on_with(server, family):
    server.breaks = 2
    assert main(family()) == 0
    assert find_data("folder/x.json").read_bytes() == CONTENT
    third = len(CONTENT) // 3
    starts = [int(asked[6:-1] or 0) if asked else 0 for asked in gets(server)]
    assert starts == sorted(set(starts))  # each further than the one before
    assert len(starts) == 3
    assert starts[-1] > third
    assert server.sent < len(CONTENT) + third


class Killed(BaseException):
    """The process ends here."""


def kill(done, total):
    if done >= 2 << 20:
        raise Killed


def download_some(server, folder):
    """Begin a download and end in the middle."""
    file = fetching.FAMILIES["small"][0].file
    with pytest.raises(Killed):
        download(file, ask([f"{server.url}/a/x.json"]), folder, kill)
    (part,) = (folder / "folder").glob("*.part")
    assert 0 < part.stat().st_size < len(CONTENT)


def test_a_command_that_was_killed_is_gone_on_with(server, family, tmp_path):
    command = family()
    download_some(server, tmp_path / "cache" / "data")
    assert find_data("folder/x.json") is None
    assert main(command) == 0
    assert gets(server)[-1].startswith("bytes=")
    assert find_data("folder/x.json").read_bytes() == CONTENT


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changed_meanwhile_is_not_mixed(server, family, tmp_path, etags):
    """With no digest known, what came before is of the same ETag or begun anew."""
    command = family(known=False)
    server.etags = etags
    download_some(server, tmp_path / "cache" / "data")
    other = CONTENT[::-1]
    server.files["/a/x.json"] = other
    assert main(command) == 0
    found = find_data("folder/x.json")
    assert found.read_bytes() == other
    assert [p.name for p in found.parent.iterdir() if p.suffix == ".part"] == []


def test_a_server_that_gives_up_is_a_sentence_and_what_came_stays(server, family, capsys):
    command = family()
    server.breaks, server.break_after = 99, 0
    assert main(command) == 2
    assert "broke off" in capsys.readouterr().err
    assert find_data("folder/x.json") is None


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_servers_without_ranges_or_etags(server, family, etags, known):
    server.ranges, server.etags, server.breaks = False, etags, 1
    assert main(family(known=known)) == 0
    assert find_data("folder/x.json").read_bytes() == CONTENT


def test_another_content_than_the_known_one_is_refused(server, family, tmp_path, capsys):
    assert main(family(content=CONTENT[:-1])) == 2
    assert "the one that is needed has" in capsys.readouterr().err
    folder = tmp_path / "cache" / "data" / "folder"
    assert [p.name for p in folder.iterdir() if p.suffix != ".lock"] == []


def test_what_is_not_known_is_recorded_and_compared(server, family, capsys):
    command = family(known=False)
    assert main(command) == 0
    found = find_data("folder/x.json")
    (entry,) = json.loads((found.parents[1] / RECORD).read_text()).values()
    assert entry["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    found.write_bytes(CONTENT[1:])
    assert main(command) == 2
    assert "when it was first fetched it had" in capsys.readouterr().err
    assert found.read_bytes() == CONTENT[1:]  # left as it is
    found.unlink()
    server.files["/a/x.json"] = CONTENT[1:]
    assert main(command) == 2
    assert "its source was" in capsys.readouterr().err
    assert not found.exists()
    (found.parents[1] / RECORD).write_text("[]")
    assert main(command) == 2
    assert "is not the record of what was fetched" in capsys.readouterr().err


def test_what_a_user_put_there_is_compared_and_left(family, tmp_path, capsys):
    command = family(also=("y.json",))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "y.json").write_bytes(b"half of it")
    assert main([*command, "--output", str(mine)]) == 2
    assert "damaged, or another version" in capsys.readouterr().err
    assert [p.name for p in mine.iterdir()] == ["y.json"]


def test_an_archive_gives_the_members_that_are_asked_for_and_no_other(server, family, capsys):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("in/a.txt", "a")
        archive.writestr("../../evil", "evil")
        archive.writestr("/tmp/ctxbench-evil", "evil")
    digest = hashlib.sha256(b"a").hexdigest()
    command = family(content=stream.getvalue(), known=False, members={"in/a.txt": digest})
    data = fetching.FAMILIES["small"][0]
    fetching.FAMILIES["small"] = (DataSet("x", "y", data.file, ("folder/in",)),)
    assert main(command) == 0
    found = find_data("folder/in")
    assert [p.read_text() for p in found.iterdir()] == ["a"]
    outside = [p for p in found.parents[2].rglob("*") if "evil" in p.name]
    assert outside == []
    (found / "a.txt").unlink()
    assert main(command) == 0  # from the archive that is here
    assert len(gets(server)) == 1
    (found / "a.txt").unlink()
    file = WebFile(name=data.file.name, urls=data.file.urls, members={"in/a.txt": "0" * 64})
    fetching.FAMILIES["small"] = (DataSet("x", "y", file, ("folder/in",)),)
    assert main(command) == 2
    assert "in/a.txt has sha256" in capsys.readouterr().err


def test_no_room_no_server_and_wrong_words_are_sentences(server, family, monkeypatch, capsys):
    command = family()
    with monkeypatch.context() as patch:
        usage = web_file.shutil.disk_usage("/")._replace(free=1000)
        patch.setattr(web_file.shutil, "disk_usage", lambda folder: usage)
        assert main(command) == 2
    assert "needs 5 MB, and the disk of" in capsys.readouterr().err
    server.files.clear()
    assert main(command) == 2
    assert "No server gave it" in capsys.readouterr().err
    assert main(["data", "fetch", "smalls"]) == 2
    assert "did you mean small?" in capsys.readouterr().err
    assert main(["data", "fetch", "small", "--mirror", "x"]) == 2
    assert "it must be FROM=TO" in capsys.readouterr().err
    assert main(["data", "fetch", "mini"]) == 0
    assert "these tasks need no data" in capsys.readouterr().out
    assert gets(server) == []


def test_two_commands_at_once_download_once(server, family):
    command = family()
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(main(command))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0, 0]
    assert len(gets(server)) == 1


HUB_FETCH = """
import sys
from ctxbench.cli import main
from ctxbench.tasks import fetching
from ctxbench.tasks.hub import HubFile
file = HubFile(repo="o/r", filename="d/f.bin", revision="{commit}", family="small"{more})
fetching.FAMILIES = {{"small": (fetching.DataSet("x", "MIT", file, ("f.bin",)),)}}
sys.exit(main(["data", "fetch", "small", "--mirror", "https://huggingface.co={url}"]))
"""


def test_files_of_the_hub_come_by_its_own_client(server, tmp_path, monkeypatch):
    """In a process of its own: the client reads at import whether it is offline."""
    path = f"/datasets/o/r/resolve/{COMMIT}/d/f.bin"
    server.files[path] = CONTENT
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")

    def run(more="", **environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = HUB_FETCH.format(commit=COMMIT, url=server.url, more=more)
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "o/r/d/f.bin: x, 5.1 MB; licence: MIT" in done.stdout
    record = json.loads((tmp_path / "cache" / "data" / RECORD).read_text())
    assert record["o/r/d/f.bin"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    sent = server.sent
    done = run(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "here already" in done.stdout
    assert server.sent == sent
    (blob,) = (p for p in (tmp_path / "hf").rglob("blobs/*") if p.is_file())
    blob.write_bytes(CONTENT[1:])
    done = run(HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "when it was first fetched it had" in done.stderr
    del server.files[path]
    blob.unlink()
    done = run()
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "the hub did not answer" in done.stderr


def test_the_offline_message_names_the_command(monkeypatch):
    file = HubFile(repo="o/r", filename="f", revision="0" * 40, family="longbench")
    with pytest.raises(FileNotFoundError, match="Run `ctxbench data fetch longbench` where"):
        file.fetch()
    from ctxbench.tasks.essays import load_essays
    from ctxbench.tasks.manyshot.trec import read_questions
    from ctxbench.tasks.ruler.qa import load_corpus
    from ctxbench.tasks.ruler.words import english_words

    for load, words in (
        (load_essays, "fetch ruler"),
        (english_words, "fetch ruler"),
        (lambda: load_corpus("squad"), "fetch ruler"),
        (lambda: load_corpus("hotpotqa"), "fetch ruler"),
        (lambda: read_questions("TREC_10.label"), "fetch trec"),
    ):
        with pytest.raises(FileNotFoundError, match=f"Run `ctxbench data {words}`"):
            load()


def test_every_family_of_tasks_is_known_and_pinned():
    from ctxbench.listing import task_names

    names = [name for found in task_names().values() for name in found]
    for name in names:
        wanted([name])
    hashed = {data.file.name for found in FAMILIES.values() for data in found if data.file.sha256}
    assert {"squad.json", "hotpotqa.json", "english_words.json", "PaulGrahamEssays.json"} <= hashed
    for found in FAMILIES.values():
        for data in found:
            file = data.file
            pinned = file.sha256 or getattr(file, "members", None)
            assert pinned or len(file.revision) == 40, file
            assert data.licence


def test_pins_are_of_what_is_here(data_dir):
    for name, data in (("PaulGrahamEssays.json", fetching.ESSAYS), *zip(
        ("trec/train_5500.label", "trec/TREC_10.label"), fetching.TREC, strict=True
    )):  # fmt: skip
        assert data.file.name == name
        assert hashlib.sha256((data_dir / name).read_bytes()).hexdigest() == data.file.sha256
    for name, digest in fetching.PUNKT.file.members.items():
        content = (data_dir / "nltk_data" / "tokenizers" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_mirrors_take_the_place_of_beginnings():
    mirrors = parse_mirrors(["https://a.b/=http://c/d/"])
    assert mirrored("https://a.b/x", mirrors) == "http://c/d/x"
    assert mirrored("https://a.bc/x", mirrors) == "https://a.bc/x"
