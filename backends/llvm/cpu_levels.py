"""What a CPU must have to run object code of a level: rows (name, CPUID leaf, subleaf, register, bit, XCR0 bits).

Source: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the levels: x86-64 psABI, "micro-architecture levels".
"""

from __future__ import annotations

from graphc.ir.frozen import frozen

EAX, EBX, ECX, EDX = range(4)
# Bits of XCR0 that the system sets when it saves these registers: SSE and AVX; for AVX-512 also masks and ZMM.
PLAIN, YMM, ZMM = 0, 0x06, 0xE6


@frozen
class Feature:
    """One CPUID bit; `name` is what a person reads, `os_state` the XCR0 bits that must be set as well."""

    name: str
    leaf: int
    subleaf: int
    register: int
    bit: int
    os_state: int


# Keyed by LLVM's names. Beyond the levels: what LLVM may use in float code on a CPU named by "native".
FEATURES = {
    "sse3": Feature("SSE3", 1, 0, ECX, 0, PLAIN),
    "ssse3": Feature("SSSE3", 1, 0, ECX, 9, PLAIN),
    "sse4.1": Feature("SSE4.1", 1, 0, ECX, 19, PLAIN),
    "sse4.2": Feature("SSE4.2", 1, 0, ECX, 20, PLAIN),
    "popcnt": Feature("POPCNT", 1, 0, ECX, 23, PLAIN),
    "avx": Feature("AVX", 1, 0, ECX, 28, YMM),
    "avx2": Feature("AVX2", 7, 0, EBX, 5, YMM),
    "fma": Feature("FMA", 1, 0, ECX, 12, YMM),
    "f16c": Feature("F16C", 1, 0, ECX, 29, YMM),
    "bmi": Feature("BMI1", 7, 0, EBX, 3, PLAIN),
    "bmi2": Feature("BMI2", 7, 0, EBX, 8, PLAIN),
    "lzcnt": Feature("LZCNT", 0x80000001, 0, ECX, 5, PLAIN),
    "movbe": Feature("MOVBE", 1, 0, ECX, 22, PLAIN),
    "avx512f": Feature("AVX512F", 7, 0, EBX, 16, ZMM),
    "avx512bw": Feature("AVX512BW", 7, 0, EBX, 30, ZMM),
    "avx512cd": Feature("AVX512CD", 7, 0, EBX, 28, ZMM),
    "avx512dq": Feature("AVX512DQ", 7, 0, EBX, 17, ZMM),
    "avx512vl": Feature("AVX512VL", 7, 0, EBX, 31, ZMM),
    "avx512ifma": Feature("AVX512IFMA", 7, 0, EBX, 21, ZMM),
    "avx512vbmi": Feature("AVX512VBMI", 7, 0, ECX, 1, ZMM),
    "avx512vbmi2": Feature("AVX512VBMI2", 7, 0, ECX, 6, ZMM),
    "avx512vnni": Feature("AVX512VNNI", 7, 0, ECX, 11, ZMM),
    "avx512bitalg": Feature("AVX512BITALG", 7, 0, ECX, 12, ZMM),
    "avx512vpopcntdq": Feature("AVX512VPOPCNTDQ", 7, 0, ECX, 14, ZMM),
    "avx512bf16": Feature("AVX512BF16", 7, 1, EAX, 5, ZMM),
    "avx512fp16": Feature("AVX512FP16", 7, 0, EDX, 23, ZMM),
    "avxvnni": Feature("AVX-VNNI", 7, 1, EAX, 4, YMM),
    "gfni": Feature("GFNI", 7, 0, ECX, 8, PLAIN),
    "vaes": Feature("VAES", 7, 0, ECX, 9, YMM),
    "vpclmulqdq": Feature("VPCLMULQDQ", 7, 0, ECX, 10, YMM),
    "adx": Feature("ADX", 7, 0, EBX, 19, PLAIN),
    "fma4": Feature("FMA4", 0x80000001, 0, ECX, 16, YMM),
    "xop": Feature("XOP", 0x80000001, 0, ECX, 11, YMM),
    "tbm": Feature("TBM", 0x80000001, 0, ECX, 21, PLAIN),
}

_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVELS = {"x86-64": (), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4, "aarch64": ()}


def needs(level: str, features: str = "") -> tuple[Feature, ...]:
    """What a CPU must have for `level`; "native" needs what `features` (LLVM's "+avx2,-xop") switches on.

    Raises ValueError for a level that is neither known nor "native".
    """
    if level in LEVELS:
        names = LEVELS[level]
    elif level == "native":
        on = {name[1:] for name in features.split(",") if name.startswith("+")}
        names = tuple(name for name in FEATURES if name in on)
    else:
        raise ValueError(f"no CPU level {level!r}\n  expected one of {', '.join(LEVELS)}, native")
    return tuple(FEATURES[name] for name in names)
