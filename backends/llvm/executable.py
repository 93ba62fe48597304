"""Standalone executables: object code, weights and the facts about a program become one static file with `main`.

Enters: ExecutableParts, filled by the backend. Leaves: a stripped static executable at a path, put there as a whole.
The program around the kernels (command line, file formats, CPU check) is C, in runtime/; weights and test vectors
reach the file through the assembler's `.incbin` and are used where the system maps them, without a copy.
"""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from dataclasses import field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from graphc.ir import GraphcValueError
from graphc.ir.frozen import frozen

from . import cpu_levels, toolchain
from .toolchain import BuildError

RUNTIME = Path(__file__).parent / "runtime"
ALIGNMENT = 64
MAX_RANK = 8  # as MAX_RANK in runtime/program.h
MAX_BYTES = 1900 << 20  # of weights and state: a static program addresses 2 GiB in all
DTYPES = {"f32": ("F32", np.dtype("<f4")), "u8": ("U8", np.dtype("u1")), "i32": ("I32", np.dtype("<i4"))}
PROBES = {
    "peak": "float *numbers, int64_t steps",
    "read": "float *sum, const float *from, int64_t count, int64_t times",
}
RUN_ARGUMENTS = (
    "const void *weights, void *state, const void *const *inputs, void *const *outputs, void *arena, int threads"
)


@frozen
class TensorInfo:
    """An input or output of the program: `dtype` is "f32", "u8" or "i32"; in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype][1].itemsize


class KernelInfo(Protocol):
    """A kernel: multiply-adds, and bytes of the buffers it reads and writes."""

    name: str
    kind: str
    macs: int
    bytes: int


@frozen
class CpuObject:
    """Relocatable ELF files, one of which exports PREFIX_run, for CPUs of `level` (a name of cpu_levels.LEVELS, or
    "native").

    `features` is LLVM's feature string of the target, needed with "native" alone: it says what the CPU must have.
    `peak_flops` and `read_floats`: those of a step of PREFIX_peak and PREFIX_read, where it exports them.
    """

    prefix: str
    level: str
    code: tuple[bytes, ...] = field(repr=False)
    features: str = ""
    peak_flops: int = 0
    read_floats: int = 0


@frozen(eq=False)
class ExecutableParts:
    """All that goes into one executable.

    weights  one block as the kernels expect it; state is copied afresh before every run
    labels   one name per class, or none
    selftest test vectors: (arrays of all inputs, arrays of all outputs), compared by their bits
    threads  default number of threads; 0: every CPU the process may use
    kernels  what --profile tells of each, if all objects export PREFIX_step, which runs a single one, and the probes
             PREFIX_peak and PREFIX_read; or none
    """

    name: str
    version: str
    target: str
    summary: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: bytes | np.ndarray = field(repr=False)
    objects: tuple[CpuObject, ...]
    state: bytes | np.ndarray = field(default=b"", repr=False)
    arena_bytes: int = 0
    labels: tuple[str, ...] = ()
    selftest: tuple[tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]], ...] = field(default=(), repr=False)
    threads: int = 1
    kernels: tuple[KernelInfo, ...] = ()

    def __post_init__(self) -> None:
        for tensor in self.inputs + self.outputs:
            if tensor.dtype not in DTYPES or len(tensor.shape) > MAX_RANK or min(tensor.shape, default=1) < 1:
                raise ValueError(
                    f"{self.name}: tensor {tensor.name}: {tensor.dtype} {tensor.shape}\n"
                    f"  expected dtype {', '.join(DTYPES)} and at most {MAX_RANK} axes, none empty"
                )
        if not self.objects or not self.outputs:
            raise ValueError(f"{self.name}: expected object code and an output, got none")
        if len(self.labels) not in (0, self.classes):
            raise GraphcValueError(
                f"{self.name}: labels\n  expected {self.classes}, one a class, got {len(self.labels)}"
            )
        prefixes = [item.prefix for item in self.objects]
        if len(set(prefixes)) < len(prefixes) or not all(re.fullmatch(r"[A-Za-z_]\w*", p, re.ASCII) for p in prefixes):
            raise ValueError(f"{self.name}: expected one C identifier per object as its prefix, got {prefixes}")
        data = sum(memoryview(block).nbytes for block in (self.weights, self.state))
        if data > MAX_BYTES:
            raise BuildError(
                f"{self.name}: the weights are too large for one executable\n"
                f"  expected at most {MAX_BYTES:,} bytes, got {data:,}\n  use the in-process program instead"
            )
        for arrays, tensors in ((a, t) for vector in self.selftest for a, t in zip(vector, self._sides, strict=True)):
            _check_arrays(self.name, arrays, tensors)

    @property
    def _sides(self) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
        return self.inputs, self.outputs

    @property
    def classes(self) -> int:
        """Classes of a program with one output of shape (N, classes), else 0: then it prints the best ones."""
        return self.outputs[0].shape[1] if len(self.outputs) == 1 and len(self.outputs[0].shape) == 2 else 0


def build(path: str | os.PathLike, parts: ExecutableParts, *, cc: str | None = None, triple: str | None = None) -> None:
    """Writes the executable to `path`, replacing a file that is there; on failure nothing is left behind.

    cc      "cc" or "zig" forces the linker; None takes the first that works
    triple  LLVM triple of the program; its architecture counts. None: this machine

    Raises BuildError: no linker, a failing one, or a path that cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise BuildError(f"{path}: cannot be written: is a folder\n  expected the name of the executable to make")
    try:
        # Beside the result: on the same disk, so that the last step is one rename, and a test of the permission.
        temporary = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise BuildError(f"{path}: cannot be written: {error.strerror}\n  expected a folder open to writing") from error
    with temporary as name:
        folder = Path(name)
        tools = toolchain.find(cc, triple.split("-", 1)[0] if triple else None)
        try:
            runtime = write_runtime(folder, tools)
            toolchain.link(tools, [*write_program(folder, parts), *runtime], folder, "program")
            os.replace(folder / "program", path)
        except OSError as error:
            raise BuildError(f"{path}: cannot be written: {error.strerror}") from error


def write_runtime(folder: Path, tools: toolchain.Toolchain) -> list[str]:
    """Writes the object code of runtime/*.c into `folder`; returns the names of the files."""
    sources = tuple(sorted(RUNTIME.glob("*.c")))
    names = [f"runtime_{source.stem}.o" for source in sources]
    for name, code in zip(names, toolchain.compile_c(tools, sources), strict=True):
        (folder / name).write_bytes(code)
    return names


def write_program(folder: Path, parts: ExecutableParts) -> list[str]:
    """Writes what belongs to this network into `folder`; returns the arguments that compile and link it."""
    vectors, offsets = _pack_vectors(parts)
    blobs = {"weights": parts.weights, "state": parts.state, "vectors": vectors}
    for name, data in blobs.items():
        (folder / f"{name}.bin").write_bytes(_bytes_of(data))
    objects = {f"kernels_{o.prefix}_{k}.o": code for o in parts.objects for k, code in enumerate(o.code)}
    for name, code in objects.items():
        (folder / name).write_bytes(code)
    (folder / "blobs.S").write_text(_assembly(blobs))
    (folder / "metadata.c").write_text(_metadata(parts, offsets))
    return [f"-I{RUNTIME}", "metadata.c", "blobs.S", *objects]


def header(parts: ExecutableParts) -> str:
    """A C header for callers of the object code: sizes and alignments in bytes, and the entry points."""
    upper = re.sub(r"\W", "_", parts.name, flags=re.ASCII).upper()
    sizes = {
        "ALIGNMENT": ALIGNMENT,
        "WEIGHT_BYTES": memoryview(parts.weights).nbytes,
        "STATE_BYTES": memoryview(parts.state).nbytes,
        "ARENA_BYTES": parts.arena_bytes,
        "INPUTS": len(parts.inputs),
        "OUTPUTS": len(parts.outputs),
    }
    for kind, tensors in (("INPUT", parts.inputs), ("OUTPUT", parts.outputs)):
        sizes |= {f"{kind}_{i}_BYTES": tensor.bytes for i, tensor in enumerate(tensors)}
    lines = [
        f"/* {_comment(parts.name)}, compiled by graphc {_comment(parts.version)} for {_comment(parts.target)}.",
        " * weights, state and arena begin at multiples of ALIGNMENT bytes, inputs and outputs at those of an element.",
        *(f" * input {i}: {_describe(tensor)}" for i, tensor in enumerate(parts.inputs)),
        *(f" * output {i}: {_describe(tensor)}" for i, tensor in enumerate(parts.outputs)),
        " * Calls with distinct state, outputs and arena may run at the same time; the result is 0 or an error. */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        *(f"#define {upper}_{key} {value}" for key, value in sizes.items()),
        *(f"int {item.prefix}_run({RUN_ARGUMENTS}); /* {item.level} */" for item in parts.objects),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _describe(tensor: TensorInfo) -> str:
    return f"{_comment(tensor.name)}, {tensor.dtype}[{','.join(map(str, tensor.shape))}]"


def _comment(text: str) -> str:
    """Text that cannot end a C comment."""
    return text.replace("*/", "* /").replace("\n", " ")


def _check_arrays(name: str, arrays: tuple[np.ndarray, ...], tensors: tuple[TensorInfo, ...]) -> None:
    got = [(array.dtype, array.shape) for array in arrays]
    expected = [(DTYPES[tensor.dtype][1], tensor.shape) for tensor in tensors]
    if got != expected:
        raise ValueError(f"{name}: test vector does not fit the program\n  expected {expected}, got {got}")


def _bytes_of(data: bytes | np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy where it lies so already."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return memoryview(data)


def _pack_vectors(parts: ExecutableParts) -> tuple[bytes, list[int]]:
    """All test vectors in one block, each array aligned, and the offset of each."""
    packed, offsets = bytearray(), []
    for inputs, outputs in parts.selftest:
        for array in (*inputs, *outputs):
            packed.extend(bytes(-len(packed) % ALIGNMENT))
            offsets.append(len(packed))
            packed.extend(_bytes_of(array))
    return bytes(packed), offsets


def _assembly(names: dict[str, bytes | np.ndarray]) -> str:
    lines = ['.section .rodata,"a",%progbits']
    for name in names:
        lines += [f".balign {ALIGNMENT}", f".globl blob_{name}", f"blob_{name}:", f'.incbin "{name}.bin"', ".byte 0"]
    return "\n".join([*lines, '.section .note.GNU-stack,"",%progbits', ""])


def _c_string(text: str) -> str:
    """A C string literal; octal escapes for what is not plain ASCII, and for ? because of trigraphs."""
    plain = {*range(0x20, 0x7F)} - {*b'"\\?'}
    return '"' + "".join(chr(c) if c in plain else f"\\{c:03o}" for c in text.encode()) + '"'


def _c_array(declaration: str, rows: list[str]) -> str:
    """A static table; C has no empty arrays, so an empty one gets a row of zeros that no count reaches."""
    return f"static const {declaration}[] = {{\n" + "".join(f"    {row},\n" for row in rows or ["0"]) + "};\n"


def _tensor_row(tensor: TensorInfo) -> str:
    shape = ", ".join(map(str, tensor.shape)) or "0"
    return f"{{{_c_string(tensor.name)}, {DTYPES[tensor.dtype][0]}, {len(tensor.shape)}, {{{shape}}}}}"


def _metadata(parts: ExecutableParts, offsets: list[int]) -> str:
    """The C source that defines `program` of runtime/program.h."""
    needs = {item.prefix: cpu_levels.needs(item.level, item.features) for item in parts.objects}
    # The program takes the first object whose needs are met: the most demanding stands first.
    objects = sorted(parts.objects, key=lambda item: -len(needs[item.prefix]))
    text = ['#include "program.h"\n']
    text += [f"extern const unsigned char blob_{name}[];\n" for name in ("weights", "state", "vectors")]
    text += [f"int {item.prefix}_run({RUN_ARGUMENTS});\n" for item in objects]
    for item in objects if parts.kernels else ():
        text.append(f"int {item.prefix}_step({RUN_ARGUMENTS}, int64_t kernel);\n")
        text += [f"void {item.prefix}_{probe}({arguments});\n" for probe, arguments in PROBES.items()]
    for item in objects:
        rows = [
            f'{{"{f.name}", {f.leaf}u, {f.subleaf}, {f.register}, {f.bit}, {f.os_state}}}' for f in needs[item.prefix]
        ]
        text.append(_c_array(f"struct feature needs_{item.prefix}", rows))
    rows = []
    for i in objects:
        profiling = [f"{i.prefix}_{name}" if parts.kernels else "NULL" for name in ("step", *PROBES)]
        fields = [_c_string(i.level), f"needs_{i.prefix}", len(needs[i.prefix]), f"{i.prefix}_run", *profiling]
        rows.append(f"{{{', '.join(map(str, [*fields, i.peak_flops, i.read_floats]))}}}")
    text.append(_c_array("struct cpu_object objects", rows))
    rows = [f"{{{_c_string(k.name)}, {_c_string(k.kind)}, {k.macs}, {k.bytes}}}" for k in parts.kernels]
    text.append(_c_array("struct kernel kernels", rows))
    text.append(_c_array("struct tensor inputs", [_tensor_row(tensor) for tensor in parts.inputs]))
    text.append(_c_array("struct tensor outputs", [_tensor_row(tensor) for tensor in parts.outputs]))
    text.append(_c_array("char *const labels", [_c_string(label) for label in parts.labels]))
    text.append(_c_array("size_t vector_offsets", [str(offset) for offset in offsets]))
    fields = {
        "name": _c_string(parts.name),
        "version": _c_string(parts.version),
        "target": _c_string(parts.target),
        "summary": _c_string(parts.summary.rstrip("\n")),
        "inputs": "inputs",
        "outputs": "outputs",
        "input_count": len(parts.inputs),
        "output_count": len(parts.outputs),
        "weights": "blob_weights",
        "state": "blob_state",
        "vectors": "blob_vectors",
        "weight_bytes": memoryview(parts.weights).nbytes,
        "state_bytes": memoryview(parts.state).nbytes,
        "arena_bytes": parts.arena_bytes,
        "weight_crc": f"{zlib.crc32(_bytes_of(parts.weights)):#010x}u",
        "objects": "objects",
        "object_count": len(objects),
        "kernels": "kernels",
        "kernel_count": len(parts.kernels),
        "labels": "labels",
        "label_count": len(parts.labels),
        "vector_offsets": "vector_offsets",
        "vector_count": len(parts.selftest),
        "threads": parts.threads,
    }
    text.append("const struct program program = {\n")
    text += [f"    .{key} = {value},\n" for key, value in fields.items()]
    return "".join([*text, "};\n"])
