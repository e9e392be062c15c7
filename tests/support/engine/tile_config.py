"""What the AMX instruction `ldtilecfg` reads, told from x86-64 machine code: the stores before it, carried out.

Nothing runs: objdump's text is followed in a straight line, and only what constants say for certain counts.
"""

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SIZE = 64  # bytes that ldtilecfg reads
OPCODE = re.compile(rb"\xc4[\x02\x22\x42\x62\x82\xa2\xc2\xe2]\x78\x49")  # also that of tilerelease
Read = Callable[[int, int], bytes | None]  # bytes of the file at an address, None where it has none

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?:[0-9a-f]{2} )*\s*(?:[a-z]+ )*?(\S+)\s*(.*?)\s*(?:#\s*([0-9a-f]+)\b.*)?$")
_MEMORY = re.compile(r"^(-?)(?:0x([0-9a-f]+))?\((%r\w+)\)$")
_TARGET = re.compile(r"^([0-9a-f]+)\b")
_VECTOR = {"xmm": 16, "ymm": 32, "zmm": 64}
_SUFFIX = {"b": 1, "w": 2, "l": 4, "q": 8}
_ZEROING = re.compile(r"^v?p?xor(p[sd]|[dq]|[bwlq])?$")
_MOVE = re.compile(r"^(mov([bwlq]|abs)?|v?mov(dq[au](8|16|32|64)?|[au]p[sd]|nt\w+|[dq]))$")
_CALLER_SAVED = frozenset("a c d si di 8 9 10 11".split())


def disassembly(path: Path) -> str:
    """The whole code of a file."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--wide", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def contents(path: Path) -> Read:
    """Reads a 64-bit ELF file by address."""
    data = path.read_bytes()
    start, size, count = (
        struct.unpack_from("<Q", data, 0x20)[0], *struct.unpack_from("<HH", data, 0x36),
    )  # fmt: skip
    segments = []
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, start + index * size)
        if kind == 1:  # PT_LOAD
            segments.append((address, offset, length))

    def read(at: int, length: int) -> bytes | None:
        for address, offset, available in segments:
            if address <= at and at + length <= address + available:
                return data[offset + at - address : offset + at - address + length]
        return None

    return read


@dataclass
class _State:
    """Known bytes of registers and of memory relative to a register's value."""

    registers: dict[str, bytes] = field(default_factory=dict)
    memory: dict[tuple[str, int], int] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """A register has another value; what was relative to the old one cannot be found any more."""
        self.registers.pop(name, None)
        self.memory = {place: byte for place, byte in self.memory.items() if place[0] != name}


def configurations(text: str, read: Read) -> Iterator[list[int | None]]:
    """The 64 bytes that each `ldtilecfg` of a disassembly reads; None for a byte that nothing stores for certain."""
    lines = [found for line in text.splitlines() if (found := _LINE.match(line))]
    targets = {
        found[1]
        for line in lines
        if line[2].startswith("j") and (found := _TARGET.match(line[3]))
    }  # fmt: skip
    state = _State()
    for line in lines:
        address, name, operands, constant = line[1], line[2], _operands(line[3]), line[4]
        if address in targets:
            state = _State()  # who jumps here may have stored something else
        if name == "ldtilecfg":
            yield _configuration(state, operands[0], constant, read)
        elif name.startswith(("jmp", "ret", "ud2", "hlt")):
            state = _State()
        elif name.startswith("call"):
            for register in [*_CALLER_SAVED, *(key for key in state.registers if key.startswith("v"))]:
                state.forget(register)
        elif not name.startswith(("j", "cmp", "test", "nop", "push", "vzeroupper")):
            _carry_out(state, name, operands, read, constant)


def _configuration(state: _State, operand: str, constant: str | None, read: Read) -> list[int | None]:
    if constant is not None:
        found = read(int(constant, 16), SIZE)
        return list(found) if found else [None] * SIZE
    place = _place(operand)
    assert place, f"ldtilecfg {operand}: an address of a kind that this test does not know"
    return [state.memory.get((place[0], place[1] + offset)) for offset in range(SIZE)]


def _carry_out(state: _State, name: str, operands: list[str], read: Read, constant: str | None) -> None:
    if not operands:
        return
    target = operands[-1]
    if _ZEROING.match(name) and len(set(operands)) == 1:
        register, _ = _register(target)
        state.forget(register)
        state.registers[register] = bytes(64 if register.startswith("v") else 8)
        return
    value = _moved(state, name, operands, read, constant) if _MOVE.match(name) and len(operands) == 2 else None
    if place := _place(target):
        _store(state, place, value, _width(name, operands))
    elif target.startswith("%"):
        register, _ = _register(target)
        state.forget(register)
        if value is not None:
            state.registers[register] = value.ljust(64 if register.startswith("v") else 8, b"\0")


def _store(state: _State, place: tuple[str, int], value: bytes | None, width: int) -> None:
    base, start = place
    for offset in range(width):
        state.memory.pop((base, start + offset), None)
        if value is not None:
            state.memory[base, start + offset] = value[offset]


def _moved(state: _State, name: str, operands: list[str], read: Read, constant: str | None) -> bytes | None:
    """What a move brings to its target."""
    source, width = operands[0], _width(name, operands)
    if source.startswith("$"):
        return int(source[1:], 16).to_bytes(8, "little", signed=source.startswith("$-"))[:width]
    if source.startswith("%"):
        known = state.registers.get(_register(source)[0])
        return known[:width] if known else None
    if constant is not None and "(%rip)" in source:
        return read(int(constant, 16), width)
    if place := _place(source):
        bytes_there = [state.memory.get((place[0], place[1] + offset)) for offset in range(width)]
        return None if None in bytes_there else bytes(byte for byte in bytes_there if byte is not None)
    return None


def _width(name: str, operands: list[str]) -> int:
    """How many bytes a move moves; the widest store for what is no move."""
    if name in ("vmovd", "movd"):
        return 4
    if name in ("vmovq",) or (name == "movq" and any("xmm" in operand for operand in operands)):
        return 8
    sizes = [_register(operand)[1] for operand in operands if operand.startswith("%")]
    if sizes:
        return min(sizes) if _MOVE.match(name) else max(sizes)
    return _SUFFIX.get(name[-1], SIZE)


def _operands(text: str) -> list[str]:
    """Split at the commas outside of brackets; the mask of a vector instruction makes it unknown."""
    found = re.findall(r"(?:[^,(]|\([^)]*\))+", text.split("<")[0])
    return [operand.strip() for operand in found]


def _place(operand: str) -> tuple[str, int] | None:
    """Base register and offset of a memory operand without an index."""
    found = _MEMORY.match(operand)
    if not found or found[3] == "%rip":
        return None
    offset = int(found[2] or "0", 16)
    return _register(found[3])[0], -offset if found[1] else offset


def _register(operand: str) -> tuple[str, int]:
    """One name for all widths of a register, and this one's width in bytes."""
    name = operand.lstrip("%*").partition("{")[0]
    for kind, width in _VECTOR.items():
        if name.startswith(kind):
            return f"v{name[3:]}", width
    if found := re.fullmatch(r"r(\d+)([dwb]?)", name):
        return found[1], {"": 8, "d": 4, "w": 2, "b": 1}[found[2]]
    core = name.removeprefix("r").removeprefix("e") if len(name) == 3 else name
    width = {"r": 8, "e": 4}.get(name[0], 2) if len(name) == 3 else 2
    if core.endswith(("l", "h")) and len(core) in (2, 3) and core not in ("sl",):
        width = 1
    return core.removesuffix("l").removesuffix("h").removesuffix("x") or core, width
