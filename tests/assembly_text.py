"""Reading assembly text, of x86 and Arm."""

import re
from collections.abc import Iterator


def innermost_loops(text: str) -> Iterator[list[str]]:
    """The instructions of every loop that holds no other jump and multiplies."""
    lines = [re.split(r"#|//", line)[0].strip() for line in text.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    for i, line in enumerate(lines):
        jump = re.fullmatch(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+(\.L\w+)", line)
        if jump and labels.get(jump[1], i) < i:
            body = [x for x in lines[labels[jump[1]] + 1 : i] if not x.endswith(":")]
            if any(re.match("vfmadd|fmla", x) for x in body) and not any(
                re.match(r"j\w+\s|b\.|cbn?z", x) for x in body
            ):
                yield body
