"""Kernels for a CPU, in C beside this file, compiled where they first run.

`ziglang` brings the compiler (clang) as a Python package; compiling takes a few
seconds, and what comes of it is kept beside this file or, where that cannot be written,
in the user's cache folder. The kernels take the addresses of contiguous memory;
`models.tiles`, `models.few_channels`, `models.linear` and `models.fused` see to dtypes,
shapes and layouts. A sum is taken in one order, however many threads there are.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from noisesteps.errors import NoisestepsError
from noisesteps.files import atomic

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent
# By what PyTorch's own kernels use: only instructions that are sure to be there.
TARGETS = {
    "AVX2": ("-mcpu=x86_64_v3",),
    "AVX512": ("-mcpu=x86_64_v4", "-mprefer-vector-width=512"),
}
# Not the flags that let a compiler assume that nothing is infinite or not a number:
# a training that diverges has to be found out.
FLAGS = (
    *("-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno"),
    *("-fno-trapping-math", "-fvisibility=hidden", "-shared", "-fPIC", "-nostdlib"),
)
MULTIPLE = 16  # that channels have to be of, to be multiplied by ours
Context = Any  # what an autograd function keeps for its backward pass
KINDS = {torch.float32: 0, torch.bfloat16: 1}  # of images, as the kernels count them
ADDRESS, COUNT, FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
SIGNATURES = {
    "set_threads": (ADDRESS, ctypes.c_uint),
    "normalise": (*[ADDRESS] * 5, *[COUNT] * 4, ctypes.c_float, FLAG, FLAG),
    "normalise_gradient": (*[ADDRESS] * 8, *[COUNT] * 4, FLAG, FLAG),
    "attend": (*[ADDRESS] * 3, *[COUNT] * 3, FLAG),
    "attend_gradient": (*[ADDRESS] * 4, *[COUNT] * 3, FLAG),
    "pack_weight": (*[ADDRESS] * 2, *[COUNT] * 2),
    "linear": (*[ADDRESS] * 5, *[COUNT] * 3),
    "size_of_weight": (COUNT, COUNT, FLAG),
    "transform_weight": (*[ADDRESS] * 2, *[COUNT] * 2, FLAG, FLAG),
    "convolve": (*[ADDRESS] * 3, COUNT, *[ADDRESS] * 2, *[COUNT] * 5, *[FLAG] * 3),
    "convolve_few": (*[ADDRESS] * 4, *[COUNT] * 5, FLAG),
    "convolve_few_gradient": (*[ADDRESS] * 5, *[COUNT] * 5, FLAG),
    "convolve_gradient": (*[ADDRESS] * 6, *[COUNT] * 6, *[FLAG] * 3),
}

_threads: dict[ctypes.CDLL, int] = {}  # what each library was told last


def has_kernels(x: torch.Tensor) -> bool:
    """Whether images (N,C,H,W) are of a kind that there are kernels for."""
    return (
        x.dtype in KINDS
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and load() is not None
    )


def on_threads() -> ctypes.CDLL:
    """Return the kernels, on as many threads as PyTorch's own use."""
    library = load()
    use_threads(library, torch.get_num_threads())
    return library


def addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    """Return where tensors lie; whoever calls holds them until the kernel has ended."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


@functools.cache
def load() -> ctypes.CDLL | None:
    """Return the kernels, or None where there are none for this machine.

    That is on processors other than x86-64 with AVX2, and without a compiler that
    works, of which a warning tells.
    """
    target = TARGETS.get(torch.backends.cpu.get_cpu_capability())
    if target is None or platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    target += _cache_of(capabilities())
    try:
        library = _cached(target) or _compiled(target)
    except (OSError, importlib.metadata.PackageNotFoundError) as error:
        log.warning(
            "PyTorch's kernels are used, which are slower, since those of noisesteps "
            "cannot be compiled; install `ziglang` anew to mend it: %s",
            error,
        )
        return None
    return declared(library)


def _cache_of(machine: dict[str, Any]) -> tuple[str, ...]:
    """Return what tells the kernels how large a core's own cache is, where known."""
    size = machine.get("l2_cache_size")
    return (f"-DCACHE={size}",) if size else ()


def capabilities() -> dict[str, Any]:
    """Return what PyTorch knows of the processor; of an older PyTorch, nothing."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell `ctypes` what the kernels take and return."""
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.size_of_weight.restype = COUNT
    return library


def use_threads(library: ctypes.CDLL, threads: int) -> None:
    """Let the kernels use so many threads of PyTorch's OpenMP runtime.

    Where that is not GCC's, whose entry they know, they use one.
    """
    if _threads.get(library) != threads:
        library.set_threads(_team(), threads)
        _threads[library] = threads


def _team() -> ctypes.c_void_p | None:
    """Return the address of GCC's `GOMP_parallel`, if PyTorch has loaded it."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1", os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return None
    return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p)


def _cached(target: tuple[str, ...]) -> ctypes.CDLL | None:
    """Load what was compiled before from the same sources by the same compiler."""
    for path in _places(target):
        with suppress(OSError):  # there is none
            return ctypes.CDLL(str(path))
    return None


def _places(target: tuple[str, ...]) -> list[Path]:
    """Return where the compiled kernels may lie, best first."""
    digest = hashlib.sha256()
    compiler = importlib.metadata.version("ziglang")
    for part in (compiler, platform.system(), *target, *FLAGS):
        digest.update(part.encode())
    for source in sorted(FOLDER.glob("*.[ch]")):
        digest.update(source.read_bytes())
    folders = [FOLDER / "__pycache__"]
    with suppress(RuntimeError):  # a user without a home
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.append(Path(cache) / "noisesteps")
    return [folder / f"{digest.hexdigest()[:16]}.so" for folder in folders]


def compile_for(target: tuple[str, ...], folder: Path) -> Path:
    """Compile the kernels into a folder, for one of `TARGETS`.

    Raises
    ------
    OSError
        If the compiler fails.
    """
    built = folder / "kernels.so"
    sources = map(str, sorted(FOLDER.glob("*.c")))
    # -P: a module of that name in the working directory is not the compiler.
    command = [sys.executable, "-P", "-m", "ziglang", "cc", *target, *FLAGS, *sources]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(folder) for kind in ("LOCAL", "GLOBAL")}
    done = subprocess.run(
        [*command, "-o", str(built)],
        env=os.environ | caches,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"the compiler of `ziglang` failed: {done.stderr.strip()}")
    return built


def _compiled(target: tuple[str, ...]) -> ctypes.CDLL:
    """Compile the kernels, keep them where that can be done, and load them."""
    log.info("compiling the kernels for this kind of processor, once")
    with tempfile.TemporaryDirectory() as folder:
        built = compile_for(target, Path(folder))
        for path in _places(target):
            try:
                with atomic(path) as temporary:
                    temporary.write_bytes(built.read_bytes())
            except (NoisestepsError, OSError):
                continue
            break
        return ctypes.CDLL(str(built))
