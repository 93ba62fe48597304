"""Reading assembly text, of x86 and Arm."""

import re
from collections.abc import Iterator


def innermost_loops(text: str, holding: str = "vfmadd|fmla") -> Iterator[list[str]]:
    """The instructions of every loop that holds no other jump, and an instruction that begins so: multiplies, unless
    told otherwise."""
    lines = [re.split(r"#|//", line)[0].strip() for line in text.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    for i, line in enumerate(lines):
        jump = re.fullmatch(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+(\.L\w+)", line)
        if jump and labels.get(jump[1], i) < i:
            body = [x for x in lines[labels[jump[1]] + 1 : i] if not x.endswith(":")]
            if any(re.match(holding, x) for x in body) and not any(re.match(r"j\w+\s|b\.|cbn?z", x) for x in body):
                yield body


def spills(body: list[str]) -> list[str]:
    """The instructions that put a vector on the stack, at a fixed place; scratch rows have an index."""
    return [x for x in body if re.search(r"mm\d+, .*\(%rsp\)|^st[rpu]\s+q\d+.*\[sp,?\]?$", x)]


def narrow(body: list[str], vector_bytes: int) -> list[str]:
    """Packed arithmetic of x86 on less than whole vectors."""
    wide = {64: "zmm", 32: "ymm"}[vector_bytes]
    return [x for x in body if re.match(r"v(add|sub|mul|div|max|min|sqrt|fn?m(add|sub)\w+)ps\s", x) and wide not in x]
