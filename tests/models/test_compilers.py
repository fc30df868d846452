import subprocess
import sys
from pathlib import Path


def test_pytorchs_compilers_follow_a_network():
    tests = Path(__file__).with_name("compiled_networks.py")
    # Without our options, and so without type checks, which PyTorch cannot follow.
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts="]
    done = subprocess.run([*command, str(tests)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "11 passed" in done.stdout
