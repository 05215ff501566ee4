"""Kernels are compiled once, kept where they can be, and done without elsewhere."""

import ctypes
import logging
import subprocess
import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisesteps.models import few_channels, fused, kernels, linear, tiles
from noisesteps.models.convolution import convolve

HAS_AVX2 = torch.backends.cpu.get_cpu_capability() in kernels.TARGETS
pytestmark = pytest.mark.skipif(not HAS_AVX2, reason="a CPU without kernels")


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Have the kernels loaded as a new process does, from a copy of their sources."""
    for source in kernels.FOLDER.glob("*.[ch]"):
        (tmp_path / "kernels").mkdir(exist_ok=True)
        (tmp_path / "kernels" / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(kernels, "FOLDER", tmp_path / "kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels.load.cache_clear()
    yield tmp_path
    kernels.load.cache_clear()


def assert_works():
    x = torch.ones(1, 16, 2, 2).to(memory_format=torch.channels_last)
    layer = nn.GroupNorm(2, 16)
    result = fused.normalise(layer, x)
    torch.testing.assert_close(result, F.silu(layer(x)))


def compiled_in(folder):
    return [path.relative_to(folder) for path in folder.rglob("*.so")]


def test_where_they_can_run_they_are_there():
    assert kernels.load() is not None


def test_what_was_compiled_is_kept_beside_the_sources(afresh, monkeypatch):
    assert_works()
    (kept,) = compiled_in(afresh)
    assert kept.parent.parts == ("kernels", "__pycache__")
    kernels.load.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)  # needed no more
    assert_works()


def test_or_in_the_users_cache_folder(afresh):
    (afresh / "kernels" / "__pycache__").write_text("no folder")
    assert_works()
    (kept,) = compiled_in(afresh)
    assert kept.parent.parts == ("cache", "noisesteps")


def test_where_nothing_can_be_kept_they_work_all_the_same(afresh):
    (afresh / "kernels" / "__pycache__").write_text("no folder")
    (afresh / "cache").write_text("no folder")
    assert_works()
    assert not compiled_in(afresh)


def test_changed_sources_are_compiled_anew(afresh):
    assert_works()
    with (afresh / "kernels" / "common.h").open("a") as file:
        file.write("/* changed */\n")
    kernels.load.cache_clear()
    assert_works()
    assert len(compiled_in(afresh)) == 2


def test_two_processes_can_compile_at_once(afresh):
    script = "from noisesteps.models import kernels; assert kernels.load()"
    started = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]


def test_without_a_compiler_that_works_a_warning_says_so(afresh, monkeypatch, caplog):
    (afresh / "kernels" / "attend.c").write_text("this is not C")
    with caplog.at_level(logging.WARNING):
        assert_works()
    assert kernels.load() is None
    assert "attend.c" in caplog.text and "PyTorch's" in caplog.text


def test_on_other_processors_there_are_none(afresh, monkeypatch):
    monkeypatch.setattr(kernels.platform, "machine", lambda: "arm64")
    assert kernels.load() is None
    assert_works()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", ["WIDTH", "CACHE"])
def test_the_machine_does_not_change_a_bit(tmp_path, monkeypatch, setting, dtype):
    """Nor do vectors of 16 numbers, as with AVX-512, but in normalisation.

    Nor convolutions in other blocks, as where a core's own cache is small.
    """
    target = kernels.TARGETS[torch.backends.cpu.get_cpu_capability()]
    monkeypatch.setattr(tiles, "_gains_in_bf16", lambda x, doubles: True)

    def found(value):
        built = kernels.compile_for((*target, f"-D{setting}={value}"), tmp_path)
        library = kernels.declared(ctypes.CDLL(built.rename(tmp_path / f"{value}.so")))
        monkeypatch.setattr(kernels, "load", lambda: library)
        torch.manual_seed(0)
        results = []
        shapes = ((16, 16, 6), (32, 48, 8), (80, 32, 12))
        for (inputs, outputs, side), doubles in product(shapes, (False, True)):
            layer = nn.Conv2d(inputs, outputs, 3, padding=1, dtype=dtype)
            x = torch.randn(5, inputs, side, side, dtype=dtype)
            x = x.to(memory_format=torch.channels_last).requires_grad_()
            assert tiles.can_convolve(layer, x, doubles=doubles)
            y = convolve(layer, x, doubles=doubles)
            y.square().sum().backward()
            results += [y, x.grad, layer.weight.grad, layer.bias.grad]
        for pixels in (16, 41):
            projected = torch.randn(3, pixels, 48, dtype=dtype, requires_grad=True)
            mixed = fused.attend_side_by_side(projected, 2)
            mixed.square().sum().backward()
            results += [mixed, projected.grad]
        x = torch.randn(2, 16, 9, 9, dtype=dtype)
        x = x.to(memory_format=torch.channels_last)
        weight = few_channels.spread(torch.randn(3, 16, 3, 3))
        results.append(few_channels.convolved_to_few(x, weight, torch.randn(3)))
        weight = linear.packed(torch.randn(48, 32))
        x = torch.randn(9, 32, 5, 5).to(memory_format=torch.channels_last)
        results.append(linear.multiplied(x, weight, torch.randn(48)))
        return results

    values = {"WIDTH": (8, 16), "CACHE": (1 << 17, 1 << 22)}[setting]
    assert all(map(torch.equal, *map(found, values)))


@pytest.mark.parametrize("target", kernels.TARGETS)
def test_every_kind_of_processor_is_compiled_for(target, tmp_path):
    """Without a warning; those of another than this one's are not loaded."""
    warnings = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror")
    built = kernels.compile_for((*kernels.TARGETS[target], *warnings), tmp_path)
    assert built.stat().st_size > 0
