"""The command line: ``mol prepare | check-data | extract | loso | report | train | predict | …``.

Every command is a dataclass of settings: each field is an option (``--batch-size 8`` or ``--batch_size 8``), any of
them can be set in a YAML file (``--config file.yaml``), and options given after it override it. Nothing heavy is
imported before the command is known.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from mol.common.allocator import keep_freed_memory
from mol.common.checks import unknown_name
from mol.common.errors import MOLError
from mol.common.output import lost_output, protect_streams
from mol.common.signals import describe, exit_at_once, exit_code, handle_stop_signals
from mol.common.stopping import RaiseStopped, Stopped
from mol.common.terminal import printable

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130


class Command(NamedTuple):
    """One command: a one-line summary, and the options that can be given without their names."""

    summary: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "demo": Command("The whole pipeline in one run: clips, training, evaluation, prediction on a real video."),
    "prepare": Command("Read a data set's sheets and folders, as distributed, into a manifest."),
    "check-data": Command(
        "Check manifests with their frames, or caches row by row: counts, gaps, damage, duplicates.", ("manifests",)
    ),
    "extract": Command("Detect and align faces and compute the flow for every clip of a manifest.", ("manifest",)),
    "loso": Command(
        "Leave-one-subject-out: train and test one fold per person and pool the scores; can be resumed.", ("caches",)
    ),
    "report": Command("Report on one or several leave-one-subject-out runs: a page, tables and pictures.", ("runs",)),
    "train": Command("Train the network on a cache with some of its people held out."),
    "pretrain": Command(
        "Train the network on synthetic clips alone, rendered while it trains, and write starting weights for --init."
    ),
    "evaluate": Command("Score a trained network, next to baselines, on people that it has never seen."),
    "predict": Command("Emotion, optical flow and landmarks of the face in a video or a folder of frames.", ("video",)),
    "export": Command(
        "Write a trained network as ONNX, for torch.export or for C++, and compare the file with the network.",
        ("weights",),
    ),
    "live": Command("A web page on this machine with a camera, and what a network sees in it while it happens."),
    "spot": Command("Where in a long video micro- and macro-expressions are: intervals, emotions, scores.", ("video",)),
    "synth": Command(
        "Make clips of real faces with exactly known motion: a cache, or with --layout SET a data set's own folders."
    ),
    "info": Command("Versions, hardware, kernels and optional parts of this installation."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what is typed after ``mol``; by default that of this process, whose signals and streams are then ours.
    Returns:
        0; 2 after an error of `mol.common.errors` or of the system, printed as one line (``--traceback`` shows where it
        came from), or if the output could not be written; after a stop signal 128 and its number, 130 for Ctrl-C.
    """
    own = argv is None
    if own:
        handle_stop_signals(exit_at_once)
        protect_streams()
        keep_freed_memory()
    try:
        code = _run_safely(list(sys.argv[1:] if argv is None else argv), own)
    except SystemExit as left:  # after the help text, or a training that was stopped
        if not own or left.code:
            raise
        code = 0
    if own and code == 0 and (reason := lost_output()):
        _print_error(f"the output could not be written: {reason}")
        return EXIT_USAGE
    return code


def _run_safely(arguments: list[str], own: bool) -> int:
    show_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        return _dispatch(arguments, own)
    except (MOLError, OSError) as error:
        if show_traceback:
            import traceback

            traceback.print_exc()
        _print_error(str(error) if isinstance(error, MOLError) else _describe_system_error(error))
        return EXIT_USAGE
    except UnicodeEncodeError as error:
        if error.encoding.lower().startswith("utf"):
            raise
        _print_error(
            f"the encoding of this system, {error.encoding}, lacks {error.object!r}; set PYTHONUTF8=1 and try again"
        )
        return EXIT_USAGE
    except Stopped as stopped:
        _print_error(str(stopped))
        return exit_code(stopped.number)
    except KeyboardInterrupt:
        _print_error(describe(signal.SIGINT))
        return EXIT_INTERRUPTED


def _dispatch(arguments: Sequence[str], own: bool) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"mol {import_module('molkernels').__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    _run(name, rest, own)
    return 0


def _run(name: str, arguments: Sequence[str], own: bool) -> None:
    commands, read_config = import_module("mol.commands"), import_module("mol.arguments").read_config
    command = COMMANDS[name]
    config_class, run = _runner(commands, name, arguments)
    nameless = "".join(f" The name --{field} can be omitted." for field in command.positional)
    footer = commands.FOOTERS.get(config_class.__name__, str)()
    config = read_config(config_class, arguments, f"mol {name}", command.summary + nameless, command.positional, footer)
    if own:  # from here on there is something to clean up
        handle_stop_signals(RaiseStopped())
    run(config)


def _runner(commands: Any, name: str, arguments: Sequence[str]) -> Any:
    """Settings and function of a command; a data set's own folders and long videos have other settings than a cache."""
    if name == "synth":
        for place, argument in enumerate(arguments):
            option, equals, value = argument.partition("=")
            if option == "--layout":
                layout = value if equals else next(iter(arguments[place + 1 :]), "")
                return commands.SYNTH_LONG if layout == "long" else commands.SYNTH_LAYOUT
    return commands.RUNNERS[name]


def _describe_system_error(error: OSError) -> str:
    """The message of an error that no part of the program foresaw, such as a name that is too long."""
    files = " and ".join(repr(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror or error}{f': {files}' if files else ''} (--traceback shows where)"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mol COMMAND [options]",
            "",
            "Joint estimation of micro-expression, optical flow and facial landmarks (MOL, IEEE TPAMI 2025).",
            "",
            "commands:",
            *lines,
            "",
            "mol COMMAND --help        the options of a command, with units and defaults",
            "mol COMMAND --traceback   on an error, show where it came from",
            "mol --version             the version",
            "",
            "Options can be written with - or with _ between words; yes/no options can stand alone.",
        ]
    )


def _print_error(message: str) -> None:
    """Red on a terminal with colours; in a log the first word identifies it. Only lists keep their line breaks."""
    message = printable(message)
    lines = message.splitlines() if "\n  " in message else [message]
    indents = ["  " if line.startswith("  ") else "" for line in lines]
    line = "error: " + "\n".join(
        f"{indent}{' '.join(line.split())}" for indent, line in zip(indents, lines, strict=True)
    )
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[31m{line}\033[0m" if colours else line, file=sys.stderr)
