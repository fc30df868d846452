"""The fused kernel against the plain one, which is the definition of what it computes."""

import concurrent.futures
import copy
import itertools
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock

from qcnn_lightning import QCNN
from qcnn_lightning.costs import CrossEntropy, SquaredDistance, mean_and_gradient
from qcnn_lightning.errors import InputError
from qcnn_lightning.kernels import build
from qcnn_lightning.kernels.kernel import AutogradKernel, backpropagate


@pytest.fixture(scope="module", autouse=True)
def operator():
    try:
        return build.load_operators()
    except build.UnavailableError as error:
        pytest.skip(str(error))


def images(batch, sites=64, seed=0):
    """Mostly black, so that blocks repeat; smooth enough for few grey levels."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(batch, sites, generator=generator)
    return torch.where(grey < 0.5, 0, (grey * 40).round() * 6).to(torch.uint8)


def both_kernels(dtype=torch.float64, seed=0, **settings):
    """The same network twice: plain, fused."""
    settings = {"num_sites": 64, "num_classes": 10, "d": 4} | settings
    torch.manual_seed(seed)
    plain = QCNN(**settings, kernel="plain").to(dtype)
    other = QCNN(**settings, kernel="fused").to(dtype)
    other.load_state_dict(plain.state_dict())
    return plain, other


def assert_close(actual, expected, relative=1e-9, scale=0.0):
    scale = max(scale, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= relative * scale


def gradients_of(network, x):
    network.zero_grad()
    alpha = network(x)
    targets = torch.eye(network.num_classes, dtype=alpha.dtype)[torch.arange(len(x)) % network.num_classes]
    (alpha - targets).square().sum(-1).mean().backward()
    return alpha.detach(), [parameter.grad.clone() for parameter in network.parameters()]


def assert_gradients_close(actual, expected, least_scale=1e-3):
    """Some gradients nearly vanish by cancellation of larger ones, so the largest of all sets the least scale."""
    largest = max(gradient.abs().max().item() for gradient in expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, scale=least_scale * largest)


ARCHITECTURES = list(itertools.product(("full", "sibling"), ("fourier", "legendre"), ("product_state", "default")))


@pytest.mark.parametrize("batch", [50, 7, 1])
@pytest.mark.parametrize(("sharing", "basis", "start"), ARCHITECTURES)
def test_scores_gradients_and_statistics_equal_the_plain_kernels(sharing, basis, start, batch):
    plain, other = both_kernels(sharing=sharing, basis=basis, start=start)
    alpha, gradients = gradients_of(plain, images(batch))
    other_alpha, other_gradients = gradients_of(other, images(batch))
    # What classifies one image has no variance: almost all gradients, and at the default start the scores, are 0.
    assert_close(other_alpha, alpha, scale=1.0 if batch == 1 else 0.0)
    assert_gradients_close(other_gradients, gradients, least_scale=1.0 if batch == 1 else 1e-3)
    for (name, actual), (_, expected) in zip(other.named_buffers(), plain.named_buffers(), strict=True):
        if name.endswith(("mean", "var")):
            assert_close(actual, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_sites": 2},
        {"num_sites": 256, "d": 2},
        {"num_classes": 2},
        {"channels": "constant", "d": 6},
        {"white": 0.75},
        {"channels": "constant", "d": 15, "basis": "legendre"},
        {"channels": "constant", "d": 32, "sharing": "sibling"},
        {"channels": [3, 1, 9, 8, 7, 17, 5], "basis": "legendre", "sharing": "sibling"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_every_size(settings, dtype, relative):
    plain, other = both_kernels(**settings)
    other.to(dtype)
    x = images(13, plain.num_sites)
    alpha, gradients = gradients_of(plain, x)
    other_alpha, other_gradients = gradients_of(other, x)
    assert_close(other_alpha.double(), alpha, relative)
    largest = max(gradient.abs().max().item() for gradient in gradients)
    for ours, theirs in zip(other_gradients, gradients, strict=True):
        assert_close(ours.double(), theirs, relative, scale=1e-3 * largest if dtype == torch.float64 else largest)


@pytest.mark.parametrize("cost", [SquaredDistance(), CrossEntropy()], ids=lambda cost: type(cost).__name__)
@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_forward_and_backward_by_a_tape_are_those_of_autograd_and_replace_gradients(sharing, cost):
    plain, network = both_kernels(sharing=sharing)
    x, labels = images(13), torch.arange(13) % 10
    for kernel, own in ((AutogradKernel(plain), plain), (network.fast_kernel(x), network)):
        for parameter in own.parameters():
            parameter.grad = torch.ones_like(parameter)
        scores, tape = kernel.forward(x)
        mean, gradient = mean_and_gradient(cost, scores, labels)
        kernel.backward(tape, gradient)
        assert not scores.requires_grad
    assert mean.item() == pytest.approx(cost(plain(x), labels).mean().item(), rel=1e-9)
    expected = [parameter.grad for parameter in plain.parameters()]
    assert_gradients_close([parameter.grad for parameter in network.parameters()], expected)
    # A textbook's way, and running averages that moved twice in the one and once in the other.
    plain.zero_grad()
    cost(plain(x), labels).mean().backward()
    for actual, textbook in zip(expected, plain.parameters(), strict=True):
        assert_close(actual, textbook.grad, relative=1e-12)


def test_a_frozen_parameter_gets_no_gradient():
    _, network = both_kernels()
    frozen = network.levels[0].gamma.requires_grad_(False)
    kernel = network.fast_kernel(images(13))
    scores, tape = kernel.forward(images(13))
    kernel.backward(tape, torch.ones_like(scores))
    assert [parameter.grad is None for parameter in network.parameters()].count(True) == 1
    assert frozen.grad is None


def test_a_parameter_that_changes_between_forward_and_backward_is_told():
    _, network = both_kernels()
    scores = network(images(13))
    with torch.no_grad():
        network.levels[0].gamma.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores.sum().backward()


@pytest.mark.parametrize(("sharing", "basis", "start"), ARCHITECTURES)
def test_twenty_optimiser_steps_equal_the_plain_kernels(sharing, basis, start):
    plain, other = both_kernels(sharing=sharing, basis=basis, start=start)
    for network in (plain, other):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for step in range(20):
            gradients_of(network, images(7 if step % 5 == 4 else 50, seed=step))
            optimizer.step()
    for actual, expected in zip(other.state_dict().values(), plain.state_dict().values(), strict=True):
        assert_close(actual.double(), expected.double())


@pytest.mark.parametrize(("precision", "bound"), [("highest", 1e-5), ("high", 5e-5)])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_single_precision_is_as_good_as_its_products(sharing, precision, bound):
    exact, _ = both_kernels(num_sites=256, d=18, sharing=sharing)
    network = QCNN(256, 10, d=18, sharing=sharing, kernel="fused", precision=precision)
    network.load_state_dict(exact.state_dict())
    x = images(50, 256)
    alpha, gradients = gradients_of(exact, x)
    other_alpha, other_gradients = gradients_of(network, x)
    assert_close(other_alpha.double(), alpha, relative=bound)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    other_flat = torch.cat([gradient.double().flatten() for gradient in other_gradients])
    assert (other_flat - flat).norm() <= bound * flat.norm()


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_evaluation_equals_the_plain_kernels(sharing):
    plain, other = both_kernels(sharing=sharing)
    for network in (plain, other):
        network.fix_population_statistics(images(40, seed=1))
        network.eval()
    for (_, actual), (_, expected) in zip(other.named_buffers(), plain.named_buffers(), strict=True):
        assert_close(actual.double(), expected.double())
    alpha, gradients = gradients_of(plain, images(50))
    other_alpha, other_gradients = gradients_of(other, images(50))
    assert_close(other_alpha, alpha)
    assert_gradients_close(other_gradients, gradients)
    with torch.no_grad():
        assert torch.equal(other(images(50)), other_alpha)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_repeats_bit_by_bit_whatever_came_before_and_with_any_number_of_threads(sharing):
    _, network = both_kernels(torch.float32, num_sites=256, d=18, sharing=sharing)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            alpha, gradients = gradients_of(network, images(50, 256))
            results.append([alpha, *gradients])
            gradients_of(network, images(23, 256, seed=threads))
    finally:
        torch.set_num_threads(before)
    for repeated in results[1:]:
        assert all(torch.equal(actual, first) for actual, first in zip(repeated, results[0], strict=True))


def test_exchanging_the_children_of_any_node_changes_no_bit():
    _, network = both_kernels(torch.float32)
    network.eval()
    x = images(20)
    for level in range(6):
        exchanged = x.reshape(20, -1, 2, 2**level).flip(2).reshape(20, 64)
        assert torch.equal(network(exchanged), network(x))


def test_an_image_scores_the_same_alone_as_in_a_batch():
    _, network = both_kernels(torch.float32, sharing="sibling")
    network.eval()
    x = images(9)
    assert torch.equal(torch.cat([network(image[None]) for image in x]), network(x))


def test_floats_are_the_plain_kernels():
    x = images(5).double() / 255
    assert QCNN(64, 10, 4)(x).shape == (5, 10)
    with pytest.raises(InputError, match=r"model\.kernel=fused .*uint8 images.*float64.*auto or plain"):
        QCNN(64, 10, 4, kernel="fused")(x)


def test_a_machine_without_a_compiler_trains_all_the_same(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    build.first_attempt.cache_clear()
    try:
        network = QCNN(64, 10, 4)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                assert network(images(5)).shape == (5, 10)
        assert [record.getMessage() for record in caplog.records] == [
            "plain kernel; the fused one cannot work here: no C++ compiler (no-such-compiler) on this machine"
        ]
        with pytest.raises(InputError, match="no-such-compiler"):
            QCNN(64, 10, 4, kernel="fused")(images(5))
    finally:
        build.first_attempt.cache_clear()


@pytest.fixture
def small_operator(monkeypatch, tmp_path):
    """Let a source that compiles at once stand in for the operator, in a cache of its own."""
    source = tmp_path / "sources" / "operator.cpp"
    source.parent.mkdir()
    source.write_text("int nothing() { return 0; }")
    monkeypatch.setattr(build, "SOURCES", source.parent)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    build.first_attempt.cache_clear()
    yield source
    build.first_attempt.cache_clear()


def test_what_the_compiler_says_is_told_in_one_line_and_the_plain_kernel_trains(small_operator, caplog):
    small_operator.write_text("int nothing() {\n  return unheard_of;\n}")
    with caplog.at_level(logging.INFO):
        assert QCNN(64, 10, 4)(images(5)).shape == (5, 10)
    announced, told = (record.getMessage() for record in caplog.records)
    assert announced.startswith("compiling the C++ kernel (about")
    assert told.startswith("plain kernel; the fused one cannot work here: ")
    assert told.count("\n") == 0
    assert "unheard_of" in told


@pytest.mark.parametrize("compiler", ["g++", "false"])
def test_a_compiler_that_fails_is_tried_once_in_a_process(compiler, small_operator, monkeypatch, caplog):
    small_operator.write_text("int nothing() {\n  return unheard_of;\n}")
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert QCNN(64, 10, 4)(images(5)).shape == (5, 10)
    assert sum(message.startswith("compiling the C++ kernel") for message in caplog.messages) == 1


def test_a_cache_that_cannot_be_written_is_no_obstacle_to_training(small_operator, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(small_operator))
    with caplog.at_level(logging.INFO):
        assert QCNN(64, 10, 4)(images(5)).shape == (5, 10)
    assert str(small_operator) in caplog.messages[-1]


def test_jobs_that_start_together_compile_once_also_after_one_that_was_killed(small_operator):
    job = (
        "import logging, pathlib, sys, torch; from qcnn_lightning.kernels import build;"
        "logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout);"
        f"build.SOURCES = pathlib.Path({str(small_operator.parent)!r});"
        "build.load_operators(); assert build.load_operators() is torch.ops.qcnn_lightning"
    )
    slow_compiler = small_operator.with_name("g++")
    slow_compiler.write_text(
        '#!/bin/sh\ncase "$*" in *operator.cpp*) touch "$0.began"; sleep 100;; esac\nexec g++ "$@"'
    )
    slow_compiler.chmod(0o755)

    def start(**environment):
        return subprocess.Popen(
            [sys.executable, "-c", job],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    killed = start(CXX=str(slow_compiler))
    while not slow_compiler.with_name("g++.began").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    told = [job.communicate()[0] for job in (start(), start()) if job.wait() == 0]
    assert len(told) == 2
    assert sum("compiled the C++ kernel" in lines for lines in told) == 1
    assert [path.name for path in build.build_directory().glob("*.so")] == ["qcnn_lightning_cpu.so"]


def test_statistics_of_a_distributed_run_are_the_plain_kernels(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(InputError, match="distributed"):
        QCNN(64, 10, 4, kernel="fused")(images(5))


def test_unknown_kernel():
    with pytest.raises(InputError, match=r"model\.kernel=quick: choose one of auto, plain, fused"):
        QCNN(64, 10, 4, kernel="quick")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (torch.zeros(8, 1, 8, 8, dtype=torch.uint8), r"x is .* of shape \[8, 1, 8, 8\]: expected .*\(batch, 64\)"),
        (torch.zeros(8, 8, 8, dtype=torch.uint8), r"of shape \[8, 8, 8\]"),
        (torch.zeros(8, 32, dtype=torch.uint8), r"of shape \[8, 32\]"),
        (torch.zeros(8, 128, dtype=torch.uint8), r"of shape \[8, 128\]"),
        (torch.zeros(0, 64, dtype=torch.uint8), "at least one image"),
        (torch.zeros(8, 64), "FloatTensor.*expected contiguous uint8"),
        (torch.zeros(64, 8, dtype=torch.uint8).T, "expected contiguous"),
    ],
)
def test_the_operator_itself_refuses_what_are_no_images(x, told, operator):
    kernel = both_kernels()[1].fast_kernel(images(1))
    with pytest.raises(RuntimeError, match=told):
        operator.forward(x, kernel.table, kernel.parameters, [], [], [], [], 0.1, kernel.epsilon, True, False)


def test_the_operator_itself_refuses_parameters_that_do_not_fit_together(operator):
    kernel = both_kernels()[1].fast_kernel(images(1))
    for place, wrong in ((0, torch.zeros(3).double()), (8, torch.zeros(4)), (-1, torch.zeros(1, 10, 5).double())):
        parameters = list(kernel.parameters)
        parameters[place] = wrong
        with pytest.raises(RuntimeError, match="expected contiguous Double on the CPU of shape"):
            operator.forward(images(3), kernel.table, parameters, [], [], [], [], 0.1, kernel.epsilon, True, True)


@pytest.mark.parametrize("gradient", [torch.zeros(3, 9), torch.zeros(2, 10), torch.zeros(3, 10, dtype=torch.float32)])
def test_the_operator_itself_refuses_gradients_of_other_scores(gradient, operator):
    kernel = both_kernels()[1].fast_kernel(images(1))
    _, tape = kernel.forward(images(3))
    if gradient.shape != (3, 10):
        gradient = gradient.double()
    with pytest.raises(RuntimeError, match=r"the scores' gradient is .*: expected one like the scores'"):
        kernel.backward(tape, gradient)


def test_callers_in_several_threads_at_a_time_get_the_same_numbers():
    _, network = both_kernels(num_sites=256, d=4)
    network.fix_population_statistics(images(200, 256))
    network.eval()
    x = images(2000, 256)
    with torch.no_grad(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        expected = network(x)
        for scores in pool.map(lambda _: network(x), range(12)):
            assert torch.equal(scores, expected)


def test_pytorchs_other_operators_have_one_thread_while_the_kernel_trains():
    _, network = both_kernels()
    before = torch.get_num_threads()
    kernel = network.fast_kernel(images(1))
    with kernel.around_training():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with AutogradKernel(network).around_training():
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_the_special_case_of_the_squared_distance_is_the_general_case(sharing, dtype):
    _, network = both_kernels(dtype, sharing=sharing)
    special = copy.deepcopy(network)
    x, labels = images(13), torch.arange(13) % 10
    mean = backpropagate(network.fast_kernel(x), SquaredDistance(), x, labels)
    assert special.fast_kernel(x).backpropagate(SquaredDistance(), x, labels) == pytest.approx(mean, rel=1e-6)
    for ours, theirs in zip(special.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(special.buffers(), network.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (torch.tensor([0, 12, 3]), "label 12 of image 1: expected 0 to 9"),
        (torch.tensor([0, 1, -1]), "label -1 of image 2"),
        (torch.tensor([0, 1]), r"labels are .* of shape \[2\]: expected .* each of 3 images"),
        (torch.tensor([[0], [1], [2]]), r"of shape \[3, 1\]"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), r"IntTensor.*expected contiguous int64"),
    ],
)
def test_the_operator_itself_refuses_what_are_no_labels(labels, told, operator):
    network = both_kernels()[1]
    before = copy.deepcopy(network.state_dict())
    kernel = network.fast_kernel(images(1))
    averages = kernel.running_mean, kernel.running_var
    with pytest.raises(RuntimeError, match=told):
        operator.squared_distance(
            images(3), labels, kernel.table, kernel.parameters, *averages, 0.1, kernel.epsilon, kernel.bfloat16_products
        )
    # and no running average has moved
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def loaded(source, **environment):
    """Load the operators of a source in a process of its own: PyTorch compiles a name but once in each."""
    code = (
        "import os, pathlib; from qcnn_lightning.kernels import build;"
        f"build.SOURCES = pathlib.Path({str(source.parent)!r});"
        "before = dict(os.environ); build.load_operators(); assert os.environ.get('CXX') == before.get('CXX')"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)
    (folder,) = (source.parents[1] / "cache").iterdir()
    return folder


def test_the_compiler_may_be_a_command_of_several_words(small_operator):
    launcher = small_operator.with_name("launcher")
    launcher.write_text('#!/bin/sh\ntouch "$0.called"\nexec "$@"\n')
    launcher.chmod(0o755)
    folder = loaded(small_operator, CXX=f"{launcher} g++")
    assert launcher.with_name("launcher.called").exists()
    assert {path.name for path in folder.iterdir()} == {"qcnn_lightning_cpu.so", "compiling.lock"}


def test_what_a_job_left_that_was_killed_after_compiling_is_removed_by_the_next(small_operator):
    folder = loaded(small_operator)
    (folder / "building").mkdir()
    with FileLock(folder / "compiling.lock"):
        build.remove_left_build(folder)
        assert (folder / "building").exists(), "another process compiles just now"
    loaded(small_operator)
    assert not (folder / "building").exists()
