"""Shared by all command lines: config resolvers, and errors as one message instead of a traceback."""

import hashlib
import os
import re
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qcnn_lightning.errors import InputError, NonFiniteCostError
from qcnn_lightning.terminal import INTERRUPTED, end_at_interrupt, go_on_without_reader, lost_output

LONGEST_FOLDER_NAME = 160
"""Bytes."""
# Tells child processes that we set HYDRA_FULL_ERROR, not the user.
ONE_MESSAGE = "QCNN_LIGHTNING_ONE_MESSAGE"
TRACEBACKS_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_MESSAGE not in os.environ
EXIT_CODES: dict[type[Exception], int] = {
    InputError: 2,
    HydraException: 2,
    OmegaConfBaseException: 2,
    NonFiniteCostError: 1,
    OSError: 1,
}


def job_folder(override_dirname: str) -> str:
    """Return the folder name of the job with these overrides: their text, usable as one folder name.

    "/" becomes "-"; quotes and backslashes are dropped, so the name can be quoted. Without overrides it is "defaults".
    A name of more than `LONGEST_FOLDER_NAME` bytes ends in a hash.
    """
    name = re.sub(r"""['"\\]""", "", override_dirname).replace("/", "-") or "defaults"
    encoded = name.encode()
    if len(encoded) > LONGEST_FOLDER_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = f"{encoded[: LONGEST_FOLDER_NAME - 9].decode(errors='ignore')}-{digest}"
    return name


def ignore_hydras_hint() -> None:
    """Ignore that our launchers and sweepers are named like the plug-ins they configure."""
    warnings.filterwarnings("ignore", r"\s*'hydra/\w+/\w+' is validated against ConfigStore schema")


ignore_hydras_hint()
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


PATHS_OF_TRAINING = ("data.root", "data.path", "data.cache", "hydra.run.dir", "hydra.sweep.dir")
PATHS_IF_THERE = ("start_from", "model.start", "data.flatten")
"""Settings that may be words, or several values of a sweep, and are paths where such a file or folder is."""


def quote_paths(*keys: str) -> None:
    """Let these keys take plain paths on this command line, as `with_quoted_paths` does."""
    sys.argv[:] = with_quoted_paths(sys.argv, keys)


def with_quoted_paths(arguments: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return arguments whose paths are quoted: job folders have "=" and "," in their names, which are Hydra's syntax.

    Args:
        arguments: of a command.
        keys: those that take a path, besides `PATHS_IF_THERE`. In every such `key=value` the value is quoted, and the
            items of a list of paths that there are; null, what is quoted already, and other lists stay as they are.
    """

    def quoted_path(argument: str) -> str:
        key, _, value = argument.partition("=")
        if key in PATHS_IF_THERE and value and "'" not in value and Path(value).exists():
            return f"{key}='{value}'"
        if key not in keys or value in ("", "null") or "'" in value:
            return argument
        if Path(value).exists() or not value.startswith(("[", '"')):
            return f"{key}='{value}'"
        if value.startswith("[") and (paths := paths_in(value[1:].removesuffix("]"))):
            return f"{key}=[{','.join(map(quoted, paths))}]"
        return argument

    return [quoted_path(argument) for argument in arguments]


def paths_in(text: str) -> list[str]:
    """Return the paths that there are, of a list that is separated by commas, which the paths may hold as well."""
    pieces = text.split(",")
    for number in range(1, len(pieces) + 1):
        first = ",".join(pieces[:number]).strip()
        if first and Path(first).exists():
            if number == len(pieces):
                return [first]
            if rest := paths_in(",".join(pieces[number:])):
                return [first, *rest]
    return []


def quoted(path: str | Path) -> str:
    """Return a path quoted for Hydra's command line."""
    return QuotedString(str(path), Quote.double).with_quotes()


def config_dir(hydra: Any) -> list[str]:
    """Return the `--config-dir` arguments of a command, for commands that repeat its jobs; empty without one.

    Args:
        hydra: Hydra's own configuration, as in `.hydra/hydra.yaml`.
    """
    runtime = hydra["runtime"]
    return [
        argument
        for source in runtime["config_sources"]
        if source["provider"] == "command-line"
        for argument in ("--config-dir", os.path.relpath(source["path"], runtime["cwd"]))
    ]


def switch(config: Any, name: str) -> bool:
    """Return a setting that is true or false.

    Raises:
        InputError: it is neither; Hydra takes yes and no for texts.
    """
    value = config[name]
    if not isinstance(value, bool):
        raise InputError(f"{name}={value}: must be true or false")
    return value


def way_to_start(command: str) -> list[str]:
    """Return how to start a command of this package, like "train": the way that this process was started.

    By a script, such as `qcnn-train` (with its folder if the shell would not find it), or by `python -m`.
    """
    started = Path(sys.argv[0])
    script = started.with_name(f"qcnn-{command}")
    if not started.name.startswith("qcnn-"):
        return ["python", "-m", f"qcnn_lightning.{command}"]
    return [script.name if shutil.which(script.name) == str(script) else str(script)]


def command_of(options: Iterable[str], overrides: Iterable[str]) -> str:
    """Return the command that trains with these options, such as --config-dir, and overrides."""
    return shlex.join([*way_to_start("train"), *options, *overrides])


@contextmanager
def one_message() -> Iterator[None]:
    """Print errors that the user can fix as one message and exit: code 2 for a bad setting or file, 1 otherwise.

    HYDRA_FULL_ERROR=1 in the environment keeps the traceback.
    """
    # Or Hydra prints its own traceback and exits first.
    if not TRACEBACKS_WANTED:
        os.environ["HYDRA_FULL_ERROR"] = os.environ[ONE_MESSAGE] = "1"
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        kinds = tuple(EXIT_CODES)
        # Python's logging wraps the OSError of a log file.
        wraps = isinstance(error, InstantiationException) or not isinstance(error, kinds)
        shown = error.__cause__ if wraps and isinstance(error.__cause__, Exception) else error
        # Imported only now: it takes time, and --help has none.
        from qcnn_lightning.hints import in_our_words

        told = in_our_words(error)
        if TRACEBACKS_WANTED or not (told or isinstance(shown, kinds)):
            raise
        print(f"error: {told or shown}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(shown, kind)), 2))


@contextmanager
def whole_command() -> Iterator[None]:
    """Run a whole command: as `one_message`, output that cannot be written is lost, and Ctrl-C ends it at once.

    Whoever has something to keep at Ctrl-C handles it, and gives it back: training, sweeps, a watched report. The exit
    code is 1 if standard output could not be written, unless nobody read it any more.
    """
    go_on_without_reader()
    try:
        with one_message():
            yield
        if (failure := lost_output()) is not None:
            print(f"error: standard output could not be written: {failure}", file=sys.stderr)
            sys.exit(1)
    finally:
        end_at_interrupt()


@contextmanager
def exit_at_errors() -> Iterator[None]:
    """Exit at any error in a Hydra callback: Hydra would only warn."""
    try:
        with one_message():
            yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)
