"""As much of CuPy as `backends/cuda/device.py` uses, over the memory of this process and the shim: what is launched is
recorded while a stream is captured, and run when the graph is launched, as on a GPU.

It is strict where CUDA is: nothing may be copied or waited for while launches are captured, addresses lie in memory
that was allocated, and a kernel gets no more dynamic shared memory than was asked for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np

STATIC_SHARED = 48 << 10
ELAPSED_MS = 0.5  # between any two events
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


class RuntimeFailure(RuntimeError):
    """CUDARuntimeError."""


class OutOfMemoryError(MemoryError):
    pass


class Array(np.ndarray):
    """cupy.ndarray: NumPy's, with the address and the device that CuPy's have."""

    number = 0

    @property
    def device(self):
        return SimpleNamespace(id=self.number)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def __dlpack_device__(self):
        return 2, self.number

    def astype(self, dtype):
        return self.fake.made(np.asarray(self).astype(dtype))


class Stream:
    def __init__(self, fake: FakeCupy, non_blocking: bool = False):
        self.fake, self.ptr, self.non_blocking = fake, id(self), non_blocking
        self.captured: list[Callable] | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def begin_capture(self):
        if not self.non_blocking:
            raise RuntimeFailure("cudaErrorStreamCaptureImplicit")
        self.captured = self.fake.capturing = []

    def end_capture(self):
        launches, self.captured, self.fake.capturing = self.captured, None, None
        return SimpleNamespace(
            upload=lambda stream: None, launch=lambda stream: [launch() for launch in launches] and None
        )

    def synchronize(self):
        self.fake.idle("cudaStreamSynchronize")

    def wait_event(self, event):
        self.fake.idle("cudaStreamWaitEvent")

    def record(self):
        return object()


class FakeCupy(ModuleType):
    """`capability` of the one device; `memory` bytes that may be allocated; `run(text, name)` gives the function that
    runs a kernel: it takes grid, threads, shared bytes and addresses."""

    __version__ = "14.2.0"
    ndarray = Array

    def __init__(self, run: Callable | None = None, capability: str = "90", memory: int = 1 << 40, devices: int = 1):
        super().__init__("cupy")
        self.run, self.left, self.capturing = run, memory, None
        self.blocks: list[np.ndarray] = []
        self.functions: dict[int, list] = {}
        runtime = SimpleNamespace(
            CUDARuntimeError=RuntimeFailure,
            getDeviceCount=lambda: self.count(devices),
            getDeviceProperties=lambda number: {"name": b"Fake GPU", "multiProcessorCount": 132},
            memGetInfo=lambda: (self.left, memory),
            memcpyAsync=self.copy,
            memcpyHostToDevice=HOST_TO_DEVICE,
            memcpyDeviceToHost=DEVICE_TO_HOST,
            memcpyDeviceToDevice=DEVICE_TO_DEVICE,
            cudaDevAttrClockRate=13,
            deviceGetAttribute=lambda attribute, number: 1_755_000,
        )
        driver = SimpleNamespace(
            CU_FUNC_ATTRIBUTE_NUM_REGS=4,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            moduleLoadData=lambda cubin: cubin,
            moduleGetFunction=self.function,
            funcGetAttribute=lambda attribute, function: self.functions[function][1],
            funcSetAttribute=lambda function, attribute, value: self.functions[function].__setitem__(1, value),
            launchKernel=self.launch,
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            driver=driver,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            alloc=self.alloc,
            Stream=lambda non_blocking=False: Stream(self, non_blocking),
            get_current_stream=lambda: Stream(self),
            Event=lambda: SimpleNamespace(record=lambda stream: None, synchronize=lambda: self.idle("event")),
            get_elapsed_time=lambda begin, end: ELAPSED_MS,
            Device=lambda: Device(capability),
        )

    def count(self, devices: int) -> int:
        if devices < 0:
            raise RuntimeFailure("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return devices

    # memory

    def alloc(self, nbytes: int):
        if nbytes > self.left:
            raise OutOfMemoryError
        self.left -= nbytes
        raw = np.full(nbytes + 512, 0xFF, np.uint8)  # NaN as float32
        self.blocks.append(raw)
        return SimpleNamespace(ptr=raw.ctypes.data + -raw.ctypes.data % 512, size=nbytes)

    def copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.idle("cudaMemcpyAsync")
        for address, here in ((to, HOST_TO_DEVICE), (source, DEVICE_TO_HOST)):
            if kind in (here, DEVICE_TO_DEVICE):
                self.inside(address, nbytes)
        ctypes.memmove(to, source, nbytes)

    def inside(self, address: int, nbytes: int) -> None:
        if not any(b.ctypes.data <= address and address + nbytes <= b.ctypes.data + b.nbytes for b in self.blocks):
            raise RuntimeFailure("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def idle(self, what: str) -> None:
        if self.capturing is not None:
            raise RuntimeFailure(f"{what}: cudaErrorStreamCaptureUnsupported")

    # arrays

    def made(self, array: np.ndarray) -> Array:
        self.blocks.append(array)
        there = array.view(Array)
        there.fake = self
        return there

    def empty(self, shape, dtype) -> Array:
        return self.made(np.empty(shape, dtype))

    def asarray(self, x) -> Array:
        return x if isinstance(x, Array) else self.made(np.asarray(x.__cuda_array_interface__))

    def from_dlpack(self, x) -> Array:
        return self.made(np.asarray(x.array))

    def ascontiguousarray(self, x: Array) -> Array:
        return x if x.flags.c_contiguous else self.made(np.ascontiguousarray(x))

    # kernels

    def function(self, module: bytes, name: str) -> int:
        handle = len(self.functions) + 1
        self.functions[handle] = [self.run(module.decode(), name), STATIC_SHARED]
        return handle

    def launch(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra) -> None:
        run, most = self.functions[function]
        if shared > most or (by, bz, extra) != (1, 1, 0):
            raise RuntimeFailure("CUDA_ERROR_INVALID_VALUE")
        pointers = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
        addresses = [ctypes.c_void_p.from_address(pointers[k]).value for k in range(run.arguments)]
        work = lambda: run((gx, gy, gz), bx, shared, addresses)  # noqa: E731
        work() if self.capturing is None else self.capturing.append(work)


class Device:
    id = 0

    def __init__(self, capability: str):
        self.compute_capability = capability

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
