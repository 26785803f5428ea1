"""Stand-ins for the CUDA libraries, so that PyPI's torch loads on a machine that has no GPU and no 3 GB to spare.

The torch on PyPI is linked against cuBLAS, cuDNN, NCCL and others (3 GB). A CPU process never calls them, but the
loader insists on finding them. Each is replaced by a library of a few kilobytes that has the soname, the versions and
the symbols torch asks for; every function returns 1, an error in all of these interfaces. The CUDA runtime itself
(libcudart, 7 MB) stays the real one: it is asked on every start, and answers truthfully that there is no device.

Needs gcc, nm and readelf. Run as `python standins.py SITE_PACKAGES`; running it again changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
CUDA_FUNCTION = re.compile(r"(cu[A-Zbdfprsl]|nv|nccl)")
# libcudart is installed for real, libcuda belongs to the driver, libc10_cuda and the like are torch's own.
REAL = re.compile(r"libcud(a|art)\.so")
# Loads libcuda itself, and only when a kernel is compiled at run time.
LAZY = "libcaffe2_nvrtc.so"


@dataclass
class Wanted:
    """What torch's libraries ask of others."""

    sonames: set[str] = field(default_factory=set)
    versions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # soname -> version names
    symbols: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # version name ("": none) -> symbols

    def add(self, library: Path) -> None:
        self.sonames |= set(re.findall(r"NEEDED.*\[(.*)\]", _output("readelf", "-d", library)))
        soname = ""
        for line in _output("readelf", "-VW", library).splitlines():
            if match := re.search(r"File: (\S+)", line):
                soname = match[1]
            elif match := re.search(r"Name: (\S+)\s+Flags", line):
                self.versions[soname].add(match[1])
        for line in _output("nm", "-D", "--undefined-only", "--with-symbol-versions", library).splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            self.symbols[version].add(symbol)

    def of(self, soname: str) -> dict[str, set[str]]:
        """The symbols of one library by version; those without a version are given to every library without one."""
        if self.versions[soname]:
            return {version: self.symbols[version] for version in self.versions[soname]}
        return {"": {symbol for symbol in self.symbols[""] if CUDA_FUNCTION.match(symbol)}}


def install(site_packages: Path) -> list[Path]:
    """Put a stand-in into torch's library folder for each CUDA library that is not there; return what was made."""
    folder = site_packages / "torch" / "lib"
    wanted = Wanted()
    for library in sorted(folder.glob("*.so")):
        if library.name != LAZY:
            wanted.add(library)
    missing = sorted(
        soname
        for soname in wanted.sonames
        if CUDA_LIBRARY.match(soname) and not REAL.match(soname) and not (folder / soname).exists()
    )
    for soname in missing:
        _compile(folder / soname, wanted.of(soname))
    return [folder / soname for soname in missing]


def _compile(target: Path, symbols_by_version: dict[str, set[str]]) -> None:
    names = sorted(set().union(*symbols_by_version.values()))
    aliases = "".join(f'int {name}(void) __attribute__((alias("llmops_absent")));\n' for name in names)
    nodes = "".join(
        f"{version} {{ global: {' '.join(f'{symbol};' for symbol in sorted(symbols) or ['*'])} }};\n"
        for version, symbols in sorted(symbols_by_version.items())
    )
    script = target.with_suffix(".map")
    script.write_text(nodes)
    linker = [f"-Wl,-soname,{target.name}", f"-Wl,--version-script={script}"]
    subprocess.run(
        ["gcc", "-shared", "-nostdlib", "-fPIC", "-s", *linker, "-o", target, "-x", "c", "-"],
        input=f"int llmops_absent(void) {{ return 1; }}\n{aliases}",
        text=True,
        check=True,
    )
    script.unlink()


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    made = install(Path(sys.argv[1]))
    print(f"{len(made)} stand-ins: {' '.join(path.name for path in made)}")
