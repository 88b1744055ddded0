"""Reads a page as a browser's parser would, and complains about what a browser would mend in silence."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

VOID = {"br", "hr", "img", "input", "link", "meta"}
REFERENCES = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    inside: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = (part if isinstance(part, str) else part.text for part in self.inside)
        return " ".join(" ".join(parts).split())

    def all(self, tag: str = "", of: str = "") -> list["Element"]:
        """The elements below with this tag and class, in the order of the page."""
        found = []
        for part in self.inside:
            if isinstance(part, Element):
                if (not tag or part.tag == tag) and (
                    not of or of in part.attributes.get("class", "").split()
                ):
                    found.append(part)
                found += part.all(tag, of)
        return found

    def one(self, name: str) -> "Element":
        (found,) = (each for each in self.all() if each.attributes.get("id") == name)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.now = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        made = Element(tag, {name: value or "" for name, value in attrs}, self.now)
        self.now.inside.append(made)
        if tag not in VOID:
            self.now = made

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.now.tag == tag, f"</{tag}> closes <{self.now.tag}>"
        assert self.now.parent is not None
        self.now = self.now.parent

    def handle_data(self, data: str) -> None:
        self.now.inside.append(data)


def read(path: Path) -> Element:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.now is reader.root, f"<{reader.now.tag}> is never closed"
    return reader.root


def check_sound(page: Element) -> None:
    """Needs no network, runs nothing, and is told to those who cannot see it."""
    elements = page.all()
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {
        each.tag for each in elements
    }
    ids = [each.attributes["id"] for each in elements if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    for each in elements:
        for name, value in each.attributes.items():
            assert not name.startswith("on"), f"{name} runs a script"
            if name in REFERENCES:
                assert value.startswith(("#", "data:image/jpeg;base64,")), f"{each.tag} {name}={value[:80]}"
                assert not value.startswith("#") or value[1:] in ids, f"{value} leads nowhere"
            if name in ("aria-labelledby", "aria-describedby"):
                assert set(value.split()) <= set(ids)
            assert "url(" not in value.replace("url(#", "") or each.tag == "style"
        if each.tag == "img":
            assert each.attributes["alt"].strip()
        if each.tag == "th":
            assert each.attributes["scope"] in ("col", "row")
        if each.tag == "svg" and each.attributes.get("role") == "img":
            assert [inner.tag for inner in each.inside if isinstance(inner, Element)][:2] == ["title", "desc"]
        if each.tag == "style":
            assert "@import" not in each.text and "url(" not in each.text
    levels = [int(each.tag[1]) for each in elements if each.tag in ("h1", "h2", "h3", "h4", "h5")]
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels)), levels
