"""What README and the pages beside it say about code is run."""

import re
import shlex

import pytest
import torch
from places import ROOT

import molkernels as mk
from mol.arguments import read_config, spell_out
from mol.cli import COMMANDS
from mol.commands import RUNNERS, SYNTH_LAYOUT, SYNTH_LONG

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATORS = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")


def test_the_equivalent_pytorch_of_f5c_is_equivalent():
    code = re.search(r"```python\n(.*?)```", OPERATORS, re.DOTALL).group(1)
    namespace = {"torch": torch}
    exec(code, namespace)
    generator = torch.Generator().manual_seed(1)
    block = mk.F5C(8, (4, 6), 3).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        x = torch.randn(3, 8, 4, 6, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(namespace["f5c"](x, block), block(x))


def test_every_file_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(
        r"`((?:examples|tests|bench|docs)/[\w./]+)`", README
    ):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_every_function_of_the_signature_table_exists():
    names = re.findall(r"^\| `mk\.([\w.]+)\(", OPERATORS, re.MULTILINE)
    assert len(names) == 11
    for name in names:
        part = mk
        for attribute in name.split("."):
            part = getattr(part, attribute)


def test_readme_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE)) <= targets


def documented_commands() -> list[str]:
    """Every line of the documentation, indented or after a prompt, that calls mol, without its comment."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
    lines = [line.partition(" #")[0] for text in texts for line in text.replace("\\\n", " ").splitlines()]
    calls = [re.match(r"(?:    |\$ )((?:\S*/)?mol [a-z].*)", line) for line in lines]
    return sorted({" ".join(call[1].split()) for call in calls if call})


def test_the_documentation_shows_every_command_but_info():
    assert {shlex.split(line)[1] for line in documented_commands()} == set(COMMANDS) - {"info"}


@pytest.mark.parametrize("line", documented_commands())
def test_every_documented_command_has_options_that_exist(line, tmp_path):
    _, name, *arguments = shlex.split(line)
    layout = SYNTH_LONG if "long" in arguments else SYNTH_LAYOUT
    config_class, _ = layout if "--layout" in arguments else RUNNERS[name]
    if "--config" in arguments:  # a file that the reader has and we have not
        at = arguments.index("--config")
        arguments[at : at + 2] = ["--cache", "c"]
    assert read_config(config_class, spell_out(config_class, COMMANDS[name].positional, arguments), f"mol {name}")
