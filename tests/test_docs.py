"""What the documents show works as shown."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.datasets.garments import generated_garments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What needs more than this test makes: tests/encoders/test_hub.py and tests/server/test_server_docs.py run it
WITH_MORE = ("add-an-encoder.md", "api.md")
ELSEWHERE = ("make ", "git ", "cd ", "pip ", "python benchmarks/")  # not commands of lookalike


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ").split("   #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def shop_floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures and the catalogue that the documents speak of."""
    folder = tmp_path_factory.mktemp("docs")
    table = generated_garments(folder / "garments", 12, seed=3)
    pictures = sorted(table.parent.glob("*.png")) or sorted(table.parent.glob("*.jpg"))
    for number, picture in enumerate(pictures[:6]):
        item = folder / "my-pictures" / f"jacket-{number}"
        item.mkdir(parents=True)
        shutil.copy(picture, item)
    with (folder / "prices.csv").open("w") as prices:
        prices.write("path,item,title,price,colour\n")
        for number in range(6):
            path = next((folder / "my-pictures" / f"jacket-{number}").iterdir()).relative_to(folder)
            prices.write(f"{path},jacket-{number},Felt jacket,{20 + 10 * number}.5,red|brown\n")
    for name in ("phone.jpg", "front.jpg", "side.jpg"):
        shutil.copy(pictures[0], folder / name)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_as_they_stand(page: Path, shop_floor: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run = {"cwd": shop_floor, "env": environment, "shell": True, "capture_output": True, "text": True}
    subprocess.run("lookalike index prices.csv --to shop", check=True, **run)  # type: ignore[call-overload]
    for command in commands(page):
        if command.startswith(ELSEWHERE):
            continue
        done = subprocess.run(command, **run)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in WITH_MORE], ids=lambda page: page.name)
def test_python_runs_as_it_stands(page: Path, shop_floor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop_floor)
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_targets_and_links_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for command in commands(page):
            if command.startswith("make "):
                assert command.split()[1] in targets, (page.name, command)
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_every_command_is_documented() -> None:
    from typer.main import get_command

    from lookalike.cli import app

    text = "\n".join(page.read_text() for page in PAGES)
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"lookalike {name}" in text, name
