"""Read pages in tests: their elements, by html.parser alone."""

from __future__ import annotations

from html.parser import HTMLParser

EMPTY = {"meta", "img", "input", "br", "hr"}
HOSTILE = "<script>alert(1)</script>\"'&\x1b]0;x\x07{{style}}"


class Page(HTMLParser):
    """A page's elements, and texts of those without a tag inside; every element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag, **attributes):
        """Return the attributes of each element of a tag that has these."""
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    def text(self, tag):
        """Return the texts that stand in a tag."""
        return [text for name, text in self.texts if name == tag]
