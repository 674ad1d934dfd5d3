"""Prints versions and hardware as plain text, to paste into a bug report.

Names of users and machines, paths and secrets are left out. Of environment variables only those are printed that change
what vistok does, and only values that are numbers, lists of numbers, or words such as ``offline``.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from urllib.parse import unquote, urlsplit

import vistok
from vistok.commands.arguments import Parser
from vistok.commands.failures import guard
from vistok.processes import openmp
from vistok.terminal import lines, visible

PREFIXES = (  # of variables that change what vistok, torch or the libraries below do
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "CUDNN_", "CUBLAS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "LD_PRELOAD", "PYTHON", "VISTOK_"),
    *("SLURM_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "HYDRA_", "WANDB_", "HF_", "XDG_CACHE", "TMPDIR", "NO_COLOR"),
)
PLAIN = re.compile(r"[\d.,:;-]{1,24}|true|false|yes|no|on|off|offline|online|disabled|dryrun", re.IGNORECASE)
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL", re.IGNORECASE)
TOOLS = ("dev", "docs")  # extras that are not used at run time
BESIDE = ("omegaconf", "triton", "scipy")  # libraries of libraries on which results depend
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")  # of a CPU, for float arithmetic
DRIVER = Path("/proc/driver/nvidia/version")
LONGEST = 100  # characters of a line


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments that follow its name."""
    guard(run, parser().parse_args(arguments))


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    return Parser("env", __doc__)


def run(asked: argparse.Namespace) -> None:
    """Prints all facts, one a line."""
    for name, fact in facts():
        first, *more = wrap(fact, LONGEST - 12, break_long_words=False, break_on_hyphens=False) or [""]
        sys.stdout.write(lines("\n".join([f"{name + ':':12}{first}", *(" " * 12 + line for line in more)])) + "\n")


def facts() -> Iterator[tuple[str, str]]:
    """Facts by name, without private ones."""
    yield "vistok", f"{vistok.__version__}{_commit()}, {_kind_of_install()}"
    kind = "virtual environment" if sys.prefix != sys.base_prefix else "conda" if _conda() else "no environment"
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}, {kind})"
    yield "system", f"{_system()}, {platform.machine()}, {'.'.join(platform.libc_ver()).replace('glibc.', 'glibc ')}"
    installed, extras = _libraries()
    yield "libraries", ", ".join(f"{name} {own}" for name, own in installed.items())
    yield "extras", "; ".join(extras)
    yield "gpu", _gpus()
    yield "cpu", _cpu()
    yield "memory", _memory()
    yield "disk", _disks()
    yield "variables", ", ".join(_variables(os.environ)) or "none of those that matter"


def _commit() -> str:
    """Commit of the clone that vistok is imported from; empty elsewhere."""
    root = Path(vistok.__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    commit = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f", commit {commit}{' with changes' if changed else ''}" if commit else ""


def _kind_of_install() -> str:
    """``installed``, ``editable``, or another folder than the installed one."""
    try:
        found = distribution("vistok")
    except PackageNotFoundError:
        return "not installed"
    here, source = Path(vistok.__file__).resolve(), json.loads(found.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable"):
        there, kind = Path(unquote(urlsplit(source["url"]).path)), "editable"
    else:
        there, kind = Path(str(found.locate_file(""))), "installed"
    return kind if here.is_relative_to(there.resolve()) else "from another folder than the installed one"


def _conda() -> bool:
    return (Path(sys.prefix) / "conda-meta").is_dir()


def _system() -> str:
    """Name of the distribution and the kernel."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()}"


def _libraries() -> tuple[dict[str, str], list[str]]:
    """Versions of installed libraries that vistok asks for, and its extras with what they lack."""
    try:
        asked = distribution("vistok").requires or []
    except PackageNotFoundError:
        return {name: _version(name) for name in ("torch", *BESIDE) if _version(name)}, ["unknown: not installed"]
    from packaging.requirements import Requirement

    installed, lacking = {}, {}
    for requirement in map(Requirement, asked):
        marker = requirement.marker
        extra = next(iter(re.findall(r"extra == ['\"](\w+)['\"]", str(marker))), "")
        if extra in TOOLS or (marker and not marker.evaluate({"extra": extra})):
            continue
        own = _version(requirement.name)
        if own or not extra:
            installed[requirement.name] = own or "MISSING"
        if extra:
            lacking.setdefault(extra, []).extend([] if own else [requirement.name])
    installed |= {name: own for name in BESIDE if (own := _version(name))}
    extras = [f"{extra} without {', '.join(names)}" if names else extra for extra, names in sorted(lacking.items())]
    return dict(sorted(installed.items())), extras


def _version(name: str) -> str:
    """Version of an installed library; empty where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _gpus() -> str:
    """GPUs as torch sees them. torch, which takes seconds to import, is imported only where there is a driver."""
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]
    if not driver and not DRIVER.exists():
        return f"no NVIDIA driver; torch was built for {_built_for()}"
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(i) for i in range(number)]
    names = [f"{own.name} ({own.total_memory / 2**30:.0f} GiB, sm_{own.major}{own.minor})" for own in devices]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)] or ["torch sees none"]
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else "none"
    return f"{', '.join(counted)}; driver {driver or 'unknown'}, {_built_for()}, cuDNN {cudnn}"


def _built_for() -> str:
    """CUDA or ROCm version of the installed torch, read from its file of versions."""
    found = find_spec("torch")
    text = Path(found.origin).with_name("version.py").read_text() if found and found.origin else ""
    for kind in ("cuda", "hip"):
        if own := re.search(rf"^{kind}\b.*= ['\"]([\w.+-]+)['\"]", text, re.MULTILINE):
            return f"{'CUDA' if kind == 'cuda' else 'ROCm'} {own[1]}"
    return "CPUs" if text else "nothing: it is not installed"


def _cpu() -> str:
    """Model, cores and instructions of the CPU."""
    text = _text("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    known = [name for name in INSTRUCTIONS if flags and name in flags[1].split()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = " ".join(model[1].split()) if model else platform.processor() or "unknown"
    return f"{name}, {cores} of {os.cpu_count()} cores usable" + (f", {' '.join(known)}" if known else "")


def _memory() -> str:
    """Memory of the machine, and a container's limit if there is one."""
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", _text("/proc/meminfo"), re.M)}
    if "MemTotal" not in sizes:
        return "unknown"
    text = f"{_gib(sizes['MemTotal'])}, {_gib(sizes.get('MemAvailable', 0))} available"
    limit = (_text("/sys/fs/cgroup/memory.max") or _text("/sys/fs/cgroup/memory/memory.limit_in_bytes")).strip()
    return text + (f", limit {_gib(int(limit))}" if limit.isdecimal() and int(limit) < sizes["MemTotal"] else "")


def _disks() -> str:
    """Free space where runs, temporary files and shared memory are."""
    folders = {
        "here": Path.cwd(),
        "temporary files": Path(os.environ.get("TMPDIR", "/tmp")),
        "/dev/shm": Path("/dev/shm"),
    }
    found = {name: shutil.disk_usage(folder) for name, folder in folders.items() if folder.is_dir()}
    return ", ".join(f"{name} {_gib(own.free)} of {_gib(own.total)} free" for name, own in found.items())


def _variables(variables: Mapping[str, str]) -> Iterator[str]:
    """Names of variables that matter, with the values that tell nothing about their user."""
    for name, value in sorted(variables.items()):
        if not name.startswith(PREFIXES) or (name, value) == ("GOMP_SPINCOUNT", openmp.SPINS):  # set by vistok itself
            continue
        plain = PLAIN.fullmatch(value) and not SECRET.search(name)
        yield f"{visible(name)}={value}" if plain else visible(name)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _text(path: str) -> str:
    """Content of a file of the system; empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """Output of a program; empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
