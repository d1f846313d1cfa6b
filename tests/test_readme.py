"""What the README says about code is run."""

import re
from pathlib import Path

import torch

import molkernels as mk

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_equivalent_pytorch_of_f5c_is_equivalent():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
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
        assert (ROOT / target).exists(), target


def test_every_function_of_the_signature_table_exists():
    names = re.findall(r"^\| `mk\.([\w.]+)\(", README, re.MULTILINE)
    assert len(names) == 11
    for name in names:
        part = mk
        for attribute in name.split("."):
            part = getattr(part, attribute)


def test_readme_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE)) <= targets
