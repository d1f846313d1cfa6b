"""Odd texts, numbers and JSON values.

A text is kept as a list of (piece, times), so that a million brackets fit into a reproducer. `VICTIM` stands for a
folder that nobody may write to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

Text = Sequence[tuple[str, int]]
VICTIM = "@VICTIM@"

_TEXTS: tuple[Text, ...] = (
    *(
        ((text, 1),)
        for text in (
            "", " ", "\t", "0", "-1", "1", "1.0", "12.0", "1,5", "1e3", "1e999", "-1e999", "nan", "NaN", "inf", "-inf",
            "None", "null", "true", "1_000", "0x10", "１２", "Ａ", "²", "٣", "001", "1e-320", "9" * 25, "-" + "9" * 25,
            "2023-04-15", "=1+1", "+1", "-x", "@SUM(A1)", "[/x]", "[red]", "[link=file:///x]", "$\\foo$", "$x", "%s",
            "{0}", "\\input{x}", "<b>x</b>", "<script>", "&amp;", "a/b", "a\\b", "..", "../../victim/evil", "~",
            "~root", f"{VICTIM}/evil", "a:b", "12:30", "http:", "CON", "con.txt", "a\x00b", "a\nb", "a\rb", "a\x1b[2Jb",
            "\ufeffx", "é", "e\u0301", "ß", "İ", "\u202eabc", "a\u200bb", "🙂", "\ud800", "'", '"', ";", ",", "#",
            "\\", "_", ".",
        )
    ),
    (("x", 300),), (("x", 70_000),), (("x", 1_100_000),), (("9", 5_000),), (("1", 4_301), (".5", 1)), (("é", 128),),
    (("../", 40), ("evil", 1)), (("[", 3_000),), (("\n", 3_000),), ((" ", 70_000),),
)  # fmt: skip

# Raw JSON, which need not be valid.
_JSON: tuple[Text, ...] = (
    *(
        ((text, 1),)
        for text in (
            "null", "true", "false", "0", "-0", "-1", "1", "2", "3", "7", "1.0", "1.5", "-0.5", "0.0", "1e-320",
            "1e308",
            "-1e308", "1e999", "NaN", "Infinity", "-Infinity", "255", "256", "65536", "2147483647", "2147483648",
            "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616", "[]", "{}", "[null]",
            "[[]]", "[0]", "[1, 2, 3]", '["a"]', '["a", "a"]', '{"a": 1}', '{"": null}', '{"a": {"b": []}}', "[NaN]",
            "[[1, 2], [3]]", '"\\ud800"', '"\\u0000"', "01", "'x'", "[1,]", "undefined", "",
        )
    ),
    (("9", 400),), (("9", 5_000),), (("[", 100_000), ("]", 100_000)), (("[", 100_000),), (('{"a":', 60_000),),
    (("[", 1), ("0,", 300_000), ("0]", 1)), (('"', 1), ("x", 1_100_000), ('"', 1)),
)  # fmt: skip


def spelled(text: Text, victim: Path | None = None) -> str:
    """The text itself."""
    whole = "".join(piece * times for piece, times in text)
    return whole if victim is None else whole.replace(VICTIM, str(victim))


def texts() -> st.SearchStrategy[Text]:
    """Texts that programs stumble over, and arbitrary ones."""
    drawn = st.text(max_size=12).map(lambda text: ((text, 1),))
    numbers = st.one_of(st.integers(-100, 100_000), st.floats()).map(lambda number: ((repr(number), 1),))
    return st.one_of(st.sampled_from(_TEXTS), st.sampled_from(_TEXTS), drawn, numbers)


def json_values() -> st.SearchStrategy[Text]:
    """Raw JSON: values of every type, numbers of every size, texts, and what is no JSON."""
    quoted = texts().map(
        lambda text: (('"', 1), *((json.dumps(piece)[1:-1], times) for piece, times in text), ('"', 1))
    )
    numbers = st.one_of(st.integers(-10, 1000), st.floats()).map(lambda number: ((json.dumps(number), 1),))
    return st.one_of(st.sampled_from(_JSON), st.sampled_from(_JSON), quoted, numbers)


def integers() -> st.SearchStrategy[int]:
    """Counts, sizes and offsets as binary headers have them: around 0 and around powers of two."""
    edges = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
    return st.sampled_from(edges) | st.integers(0, 2**32 - 1)
