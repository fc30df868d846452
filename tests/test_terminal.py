"""Commands whose output nobody takes, on terminals without letters, and Ctrl-C at any moment: a message or none."""

import os
import signal
import subprocess
import sys
import time

import pytest
from synthetic import write_run

TIMEOUT_S = 600
COMMANDS = {
    "train": ["data=digits", "model.d=2", "trainer.max_epochs=1", "model.kernel=plain", "logger=none"],
    "report": ["runs=runs", "figures=[]"],
    "runs": ["runs"],
    "dashboard": ["entity=me"],
}
NOISE = ("Traceback", "Logging error", "Exception ignored", "BrokenPipe")


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "runs" / "größe-猫", epochs=6)
    return tmp_path


def started(name, folder, environment=(), **more):
    return subprocess.Popen(
        [sys.executable, "-m", f"qcnn_lightning.{name}", *COMMANDS[name]],
        cwd=folder,
        env={**os.environ, "NETRC": "/dev/null", **dict(environment)},
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )


def told(process):
    """What it says on standard error, without noise."""
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert not any(noise in errors for noise in NOISE), errors
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_nobody_reads_is_lost_and_the_command_goes_on(name, folder):
    reading, writing = os.pipe()
    os.close(reading)
    process = started(name, folder, stdout=writing)
    os.close(writing)
    assert told(process) == ""
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("name", COMMANDS)
def test_output_without_room_is_told_once(name, folder):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = started(name, folder, stdout=full)
        assert told(process) == "error: standard output could not be written: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "runs"])
def test_a_closed_output_gets_no_file_instead(name, folder):
    arguments = " ".join([sys.executable, "-m", f"qcnn_lightning.{name}", *COMMANDS[name]])
    done = subprocess.run(f"{arguments} >&- <&-", shell=True, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_terminal_cannot_show_is_shown_by_its_code(name, folder, environment):
    process = started(name, folder, environment, stdout=subprocess.PIPE)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert output.isascii()
    if name == "runs" and "PYTHONIOENCODING" in environment:
        assert r"gr\xf6\xdfe-\u732b" in output


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_a_command_at_once_whatever_it_imports_just_then(name, folder, after):
    process = started(name, folder, stdout=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    assert told(process) in ("", "interrupted\n")
    # Whoever had the answer sooner has ended well; at its very end the interpreter gives the signal back to the system.
    assert process.returncode in (130, -signal.SIGINT, 0)
