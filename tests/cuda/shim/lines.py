"""Which line of the source an address came from, read from the DWARF line tables of an ELF library.

Enters: the bytes of a library compiled with -gdwarf-4. Leaves: (address, file, line) rows in order of address. The
format is that of the DWARF 4 standard, section 6.2; no binutils are needed, which a machine may lack.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass
class Bytes:
    data: bytes
    at: int = 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.take("B")
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        found, self.at = self.data[self.at : end], end + 1
        return found.decode()


def section(elf: bytes, name: str) -> bytes:
    """The contents of a section of a 64-bit little-endian ELF file, empty where there is none."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return b""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<3H", elf, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    texts = heads[names][4]
    for head in heads:
        if Bytes(elf, texts + head[0]).text() == name:
            return elf[head[4] : head[4] + head[5]]
    return b""


def rows(elf: bytes) -> list[tuple[int, str, int]]:
    """Where each run of instructions begins, the name of its file without folders, and its line; line 0 ends a run."""
    table, found = Bytes(section(elf, ".debug_line")), []
    while table.at < len(table.data):
        length = table.take("I")
        end = table.at + length
        if 2 <= table.take("H") <= 4:
            found += _program(table, end)
        table.at = end
    return sorted(found)


def _program(t: Bytes, end: int) -> list[tuple[int, str, int]]:
    version = struct.unpack_from("<H", t.data, t.at - 2)[0]
    start = t.take("I") + t.at
    step = t.take("B")
    if version == 4:
        t.take("B")  # operations an instruction: 1 but on VLIW machines
    t.take("B")
    base, span, first = t.take("b"), t.take("B"), t.take("B")
    operands = [t.take("B") for _ in range(first - 1)]
    while t.text():  # folders
        pass
    files = [""]
    while name := t.text():
        files.append(name.split("/")[-1])
        for _ in range(3):
            t.uleb()
    found, t.at = [], start
    address, file, line = 0, 1, 1
    while t.at < end:
        code = t.take("B")
        if code >= first:
            address += (code - first) // span * step
            line += base + (code - first) % span
            found.append((address, files[file], line))
        elif code == 0:
            after = t.uleb() + t.at
            what = t.take("B")
            if what == 1:
                found.append((address, "", 0))
                address, file, line = 0, 1, 1
            elif what == 2:
                address = t.take("Q")
            t.at = after
        elif code == 1:
            found.append((address, files[file], line))
        elif code == 2:
            address += t.uleb() * step
        elif code == 3:
            line += t.sleb()
        elif code == 4:
            file = t.uleb()
        elif code == 8:
            address += (255 - first) // span * step
        elif code == 9:
            address += t.take("H")
        else:
            for _ in range(operands[code - 1]):
                t.uleb()
    return found
