"""Measuring steps for a whole run: turns, interruptions, what is refused."""

import json

import pytest
from bench_results import LIMITS, MACHINE, save_steps

from bench import loso, network


@pytest.mark.parametrize(("draft", "found"), [(False, "Unfinished: 2 steps"), (True, "DRAFT")])
def test_too_few_steps_make_a_headline_only_as_a_draft(tmp_path, capsys, draft, found):
    path = save_steps(tmp_path, draft=draft, cpu_float32={"2": [2.0], "8": [5.0]})
    assert loso.main(["--report", str(path)]) == 0
    text = capsys.readouterr().out
    assert found in text
    assert ("hours" in text) == draft


class Steps:
    """Networks that note their steps, and stop the process at one of them."""

    def __init__(self, interrupt_at=None):
        self.done, self.interrupt_at = [], interrupt_at

    def __call__(self, key, state, device):
        owner = self

        class Network:
            def step(self, batch):
                owner.done.append((key, len(batch.label)))
                if len(owner.done) == owner.interrupt_at:
                    raise KeyboardInterrupt

        return Network()


@pytest.fixture
def fake(monkeypatch):
    def install(steps):
        monkeypatch.setattr(network, "Network", steps)
        monkeypatch.setattr(network, "random_state", dict)
        monkeypatch.setattr(network, "contender_keys", lambda device: ["a-float32", "b-float32"])
        monkeypatch.setattr(loso.machine, "measure_limits", lambda device: LIMITS)
        monkeypatch.setattr(loso.machine, "describe", lambda device: MACHINE)
        monkeypatch.setattr(loso, "seconds_of", lambda run: run() or 1.0)  # the real one collects garbage first
        return steps

    return install


ARGUMENTS = ["--contenders", "a-float32", "b-float32", "--measure", "1:2", "2:1"]


def test_rounds_take_turns_after_a_warm_up_at_every_batch(tmp_path, fake):
    steps = fake(Steps())
    assert loso.main([*ARGUMENTS, "--draft", "--folder", str(tmp_path)]) == 0
    order = "".join(f"{key[0]}{size}" for key, size in steps.done)
    assert order == "a1b1" + "a1b1" + "b1a1" + "a2b2" + "a2b2"


def test_an_interrupted_measurement_leaves_its_whole_rounds_readable(tmp_path, fake, capsys):
    fake(Steps(interrupt_at=6))  # the second contender of the second round
    assert loso.main([*ARGUMENTS, "--draft", "--folder", str(tmp_path)]) == 130
    (path,) = tmp_path.glob("*/*")
    assert path.name == "2026-01-02-abc-loso-draft.json"
    durations = json.loads(path.read_text())["loso"]["durations"]
    assert [len(durations[key]["1"]) for key in ("a-float32", "b-float32")] == [1, 1]
    assert loso.main(["--report", str(path)]) == 0
    assert "| a-float32 | 1 | 1 |" in capsys.readouterr().out


def test_a_measurement_is_never_overwritten(tmp_path, fake, capsys):
    fake(Steps())
    arguments = ["--contenders", "a-float32", "--measure", "1:50", "--folder", str(tmp_path)]
    assert loso.main(arguments) == 0
    assert loso.main(arguments) == 2
    assert "already holds a measurement" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "2:10"], "10 steps per contender are fewer than 50"),
        (["--measure", "2"], "must be BATCH:STEPS"),
        (["--measure", "2:50", "2:9"], "a batch size is given twice"),
        (["--contenders", "c-float32"], "choose from a-float32, b-float32"),
    ],
)
def test_loso_refuses_and_says_what_to_do(fake, capsys, arguments, message):
    fake(Steps())
    with pytest.raises(SystemExit):
        loso.main(["--contenders", "a-float32", *arguments])
    assert message in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_reported(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text('{"format": 2, "rows": []}')
    assert loso.main(["--report", str(path)]) == 2
    assert "not a file of bench.loso; print it with: python -m bench.report" in capsys.readouterr().err
