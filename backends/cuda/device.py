"""The GPU, through CuPy: memory, modules, and launches recorded as one CUDA graph. The only file that uses CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graphc.ir import GraphcError, GraphcTypeError
from graphc.ir.frozen import frozen
from graphc.schedule.arguments import Argument

from .assemble import Module
from .nvrtc import compile_module
from .program import Bound, OutOfMemory
from .target import Target, of_capability

INSTALL = '  install it with: pip install "graphc-compiler[cuda]"'
DLPACK_CUDA = 2  # kDLCUDA


@lru_cache(maxsize=1)
def current() -> CupyDevice:
    """CuPy's current device. GraphcError that says what is missing: CuPy, a driver, a GPU, a capability."""
    try:
        import cupy
    except ImportError as error:
        raise GraphcError(f"backend cuda: CuPy is not installed ({error})\n{INSTALL}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise GraphcError(
            f"backend cuda: CuPy {cupy.__version__} is installed, but there is no usable NVIDIA driver\n"
            f"  CUDA says: {error}\n"
            '  install the driver of the GPU, or take backend="llvm"'
        ) from None
    if not count:
        raise GraphcError('backend cuda: no NVIDIA GPU found\n  take backend="llvm"')
    return CupyDevice(cupy)


@frozen
class DeviceMemory:
    """An allocation of CuPy's pool."""

    address: int
    nbytes: int
    owner: object


@frozen
class Loaded:
    """A module on the device: functions (driver handles) by symbol."""

    module: object
    functions: Mapping[str, int]


@dataclass
class Elapsed:
    """A time, once it is known."""

    seconds: float = 0.0


class CupyDevice:
    """The device that is current in CuPy when it is first asked for. All work goes through one stream."""

    def __init__(self, cupy):
        self.cupy = cupy
        self.handle = cupy.cuda.Device()
        self.capability = self.handle.compute_capability
        self.target: Target = of_capability(self.capability)
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def __str__(self) -> str:
        name = self.cupy.cuda.runtime.getDeviceProperties(self.handle.id)["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    def allocate(self, nbytes: int) -> DeviceMemory:
        try:
            with self.handle:
                memory = self.cupy.cuda.alloc(nbytes)
        except self.cupy.cuda.memory.OutOfMemoryError:
            raise OutOfMemory(self.cupy.cuda.runtime.memGetInfo()[0]) from None
        return DeviceMemory(memory.ptr, nbytes, memory)

    def upload(self, address: int, array: np.ndarray) -> None:
        runtime, array = self.cupy.cuda.runtime, np.ascontiguousarray(array)
        if array.nbytes:
            runtime.memcpyAsync(address, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self.stream.ptr)
            self.stream.synchronize()  # the array is the caller's again

    def download(self, address: int, array: np.ndarray) -> None:
        runtime = self.cupy.cuda.runtime
        if array.nbytes:
            runtime.memcpyAsync(array.ctypes.data, address, array.nbytes, runtime.memcpyDeviceToHost, self.stream.ptr)
        self.stream.synchronize()

    def resident(self, x: object, argument: Argument) -> object | None:
        """CuPy arrays, and whatever shows a CUDA array by `__cuda_array_interface__` or DLPack, such as a tensor of
        PyTorch. They are read where they lie if they are contiguous."""
        cupy = self.cupy
        if isinstance(x, cupy.ndarray) or hasattr(x, "__cuda_array_interface__"):
            array = cupy.asarray(x)
        elif getattr(x, "__dlpack_device__", None) and x.__dlpack_device__()[0] == DLPACK_CUDA:
            array = cupy.from_dlpack(x)
        else:
            return None
        if array.device.id != self.handle.id:
            raise GraphcTypeError(
                f"{argument.title}: it is on GPU {array.device.id}, the program on GPU {self.handle.id}\n"
                "  copy it there first"
            )
        if argument.dtype == np.int32 and array.dtype.kind in "iu":
            array = array.astype(np.int32)  # labels
        argument.check(array.shape, array.dtype)
        # what its maker still does to it must be done before the program reads it
        self.stream.wait_event(cupy.cuda.get_current_stream().record())
        return cupy.ascontiguousarray(array)

    def copy_in(self, address: int, x: object) -> None:
        runtime = self.cupy.cuda.runtime
        runtime.memcpyAsync(address, x.data.ptr, x.nbytes, runtime.memcpyDeviceToDevice, self.stream.ptr)

    def copy_out(self, address: int, shape: tuple[int, ...], dtype: type) -> object:
        runtime = self.cupy.cuda.runtime
        with self.handle:
            array = self.cupy.empty(shape, dtype)
        runtime.memcpyAsync(array.data.ptr, address, array.nbytes, runtime.memcpyDeviceToDevice, self.stream.ptr)
        self.cupy.cuda.get_current_stream().wait_event(self.stream.record())
        return array

    def load(self, module: Module) -> Loaded:
        compiled = compile_module(module.text, self.target.arch)
        driver, functions = self.cupy.cuda.driver, {}
        with self.handle:
            loaded = driver.moduleLoadData(compiled.cubin)
            for symbol, code in module.codes.items():
                functions[symbol] = driver.moduleGetFunction(loaded, symbol)
                # asking for it loads the kernel, which cannot happen while launches are recorded
                driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_NUM_REGS, functions[symbol])
                if code.shared:
                    most = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    driver.funcSetAttribute(functions[symbol], most, code.shared)
        return Loaded(loaded, functions)

    def record(self, loaded: Loaded, launches: Sequence[Bound]) -> Callable[[], None]:
        """A CUDA graph."""
        with self.handle, self.stream:
            self.stream.begin_capture()
            self.launch(loaded, launches)
            graph = self.stream.end_capture()
        graph.upload(self.stream)
        return lambda: graph.launch(self.stream)

    @contextmanager
    def timed(self) -> Iterator[Elapsed]:
        """What the stream takes for the work given to it inside."""
        begin, end, elapsed = self.cupy.cuda.Event(), self.cupy.cuda.Event(), Elapsed()
        begin.record(self.stream)
        yield elapsed
        end.record(self.stream)
        end.synchronize()
        elapsed.seconds = 1e-3 * self.cupy.cuda.get_elapsed_time(begin, end)

    def launch(self, loaded: Loaded, launches: Sequence[Bound]) -> None:
        """The launches one by one."""
        for code, arguments in launches:
            addresses = [ctypes.c_void_p(address) for address, _, _ in arguments]
            pointers = (ctypes.c_void_p * len(addresses))(*(ctypes.addressof(a) for a in addresses))
            self.cupy.cuda.driver.launchKernel(
                loaded.functions[code.name], *code.grid, code.threads, 1, 1, code.shared, self.stream.ptr,
                ctypes.addressof(pointers), 0,
            )  # fmt: skip
