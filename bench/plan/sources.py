"""Where the figures of a plan come from."""

Range = tuple[float, float]
"""The fast and the slow end of an estimate."""


class Sources:
    """Numbered statements of where figures come from."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, kind: str, text: str) -> str:
        """Note a statement once; returns the mark to put beside the figure, such as "[1]".

        Args:
            kind: "measured", "datasheet, not measured", "assumed" or "counted".
            text: the statement.
        """
        line = f"{kind}: {text}"
        if line not in self.lines:
            self.lines.append(line)
        return f"[{self.lines.index(line) + 1}]"
