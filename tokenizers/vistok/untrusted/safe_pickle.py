"""Checkpoints of strangers, read as data: tensors, plain values, and an inert ``Stub`` for every other object.

A ``.ckpt`` is a pickle, a program for a stack machine that may call anything. Here a machine of our own runs it, which
imports nothing and has only the few calls in ``Machine.call``. Whatever a file declares is checked before it is used.
"""

import io
import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vistok.untrusted.pickle_names import (
    DICTS,
    DTYPES,
    KNOWN,
    NUMBERS,
    REBUILDS,
    RECONSTRUCTORS,
    SCALARS,
    STORAGES,
    SUBCLASS,
)

MAX_PICKLE = 64 * 2**20  # bytes
MAX_STEPS = 2_000_000  # opcodes, and items copied by calls; a Lightning checkpoint of VQGAN has some 100,000
MAX_DEPTH = 100
MAX_SMALL = 2**32  # hashes of integers below it cannot be made to collide
MAX_ODD = 1_000  # most keys of dicts whose hashes can be made to collide: other numbers, and tuples
MAX_STUBS = 10_000  # most names of objects that are not created
MAX_NAME = 200  # longest name of a stub in characters


class Stub:
    """Placeholder for an object, class or function of the file: only its name."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name[:MAX_NAME]

    def __repr__(self) -> str:
        return f"Stub({self.name!r})"


class Machine:
    """Interprets a pickle without importing or calling anything that it names.

    Work beyond one step per opcode is counted by ``spend``: a few bytes could otherwise copy a list a million times.

    Args:
        storage: Returns the storage with a key, dtype and number of values as a tensor (n,), or raises ``ValueError``.
    """

    def __init__(self, storage: Callable[[str, torch.dtype, int], Tensor]):
        self.storage = storage
        self.storages: dict[str, tuple[torch.dtype, int, Tensor]] = {}
        self.known_storages: set[int] = set()  # ids of the storages, which live as long as the machine
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.requested: set[str] = set()
        self.steps = self.odd_keys = 0

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.requested))

    def run(self, stream: io.BytesIO) -> Any:
        """Object of the pickle at the stream's position, which then is at its end."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.spend(1)
                if opcode.name == "STOP":
                    if len(self.stack) != 1 or self.marks:
                        raise ValueError("its pickle leaves more or less than one object")
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, OverflowError, RuntimeError, struct.error) as error:
            raise ValueError(f"a damaged pickle: {type(error).__name__}: {str(error)[:MAX_NAME]}") from error
        raise ValueError("its pickle has no end")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise ValueError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:  # compared one by one: the most frequent come first
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                if not 0 <= argument < MAX_SMALL:
                    raise ValueError("an object is stored under a number that no pickle needs")
                self.memo[argument] = self.top()
            case "BININT1" | "BININT2" | "BININT" | "INT" | "LONG" | "LONG1" | "LONG4":
                if argument.bit_length() > 1024:
                    raise ValueError(f"an integer of {argument.bit_length():,} bits")
                stack.append(argument)
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self.pop_mark()))
            case "BINUNICODE" | "FLOAT" | "BINFLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "UNICODE":
                stack.append(argument)
            case "PROTO" | "FRAME":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "SHORT_BINUNICODE" | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "BYTEARRAY8":
                stack.append(bytes(argument))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(self.stub("builtins.set"))
            case "POP":
                if self.marks and self.marks[-1] == len(stack):
                    self.marks.pop()
                else:
                    self.pop()
            case "POP_MARK":
                self.pop_mark()
            case "DUP":
                stack.append(self.top())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "LIST":
                stack.append(self.pop_mark())
            case "DICT":
                stack.append(self.fill({}, self.pop_mark()))
            case "FROZENSET":
                self.pop_mark()
                stack.append(self.stub("builtins.frozenset"))
            case "APPEND":
                item = self.pop()
                self.extend(self.top(), [item])
            case "APPENDS":
                items = self.pop_mark()
                self.extend(self.top(), items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.fill(self.top(), [key, value])
            case "SETITEMS":
                items = self.pop_mark()
                self.fill(self.top(), items)
            case "ADDITEMS":
                self.pop_mark()
                self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "GLOBAL":
                stack.append(self.named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                if type(attribute) is not str or type(module) is not str:
                    raise ValueError("a global whose name is not a string")
                stack.append(self.named(f"{module[:MAX_NAME]}.{attribute[:MAX_NAME]}"))
            case "REDUCE":
                arguments, function = self.pop(), self.pop()
                stack.append(self.call(function, arguments))
            case "NEWOBJ":
                arguments, cls = self.pop(), self.pop()
                stack.append(self.call(cls, arguments))
            case "NEWOBJ_EX":
                _, arguments, cls = self.pop(), self.pop(), self.pop()
                stack.append(self.call(cls, arguments))
            case "INST":
                arguments = self.pop_mark()
                stack.append(self.call(self.named(argument.replace(" ", ".", 1)), tuple(arguments)))
            case "OBJ":
                cls, *arguments = self.pop_mark()
                stack.append(self.call(cls, tuple(arguments)))
            case "BUILD":  # sets attributes: nothing that is built here has any
                state, built = self.pop(), self.top()
                swapped = type(state) is tuple and len(state) > 1 and type(state[1]) is str and state[1] == ">"
                if swapped and type(built) is Stub and built.name.startswith("numpy.dtype "):
                    built.name = "numpy.dtype of swapped bytes"
            case "BINPERSID":
                stack.append(self.persistent(self.pop()))
            case _:  # extension codes, text persistent ids, out-of-band buffers: torch.save writes none
                raise ValueError(f"its pickle has the opcode {name}, which torch.save does not write")

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("a damaged pickle: its stack is empty")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def stub(self, name: str) -> Stub:
        self.requested.add(name[:MAX_NAME])
        if len(self.requested) > MAX_STUBS:
            raise ValueError(f"it asks for more than {MAX_STUBS:,} objects by name")
        return Stub(name)

    def named(self, name: str) -> Stub | torch.dtype:
        return DTYPES[name] if name in DTYPES else Stub(name) if name in KNOWN else self.stub(name)

    def extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Stub:
            raise ValueError(f"items appended to a {type(target).__name__}")

    def fill(self, target: Any, items: list[Any]) -> Any:
        if type(target) not in (dict, Stub) or len(items) % 2:
            raise ValueError(f"keys and values set in a {type(target).__name__}")
        if type(target) is dict:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[self.key(key)] = value
        return target

    def key(self, key: Any) -> Any:
        """Key of a dict, if it can be hashed quickly and without deliberate collisions.

        Python randomises the hashes of strings and bytes in each process, but not those of numbers and tuples.
        """
        if type(key) in (str, bytes, Stub) or key is None or (type(key) in (int, bool) and 0 <= key < MAX_SMALL):
            return key
        parts = key if type(key) is tuple else (key,)  # a tuple of tuples could take forever
        self.spend(len(parts))
        if not all(type(part) in (str, int, float, bool, bytes, type(None), Stub) for part in parts):
            return self.stub("a key that is no plain value")
        self.odd_keys += 1
        if self.odd_keys > MAX_ODD:
            raise ValueError(f"its dicts have more than {MAX_ODD:,} keys that are neither names nor counts")
        return key

    def persistent(self, pid: Any) -> Tensor | Stub:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Stub:
            return pid[1]  # a class of the older format, with its source code
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise ValueError("a persistent id that is not that of a storage")
        _, kind, key, _, numel = cast(tuple[Any, ...], pid)[:5]
        dtype = STORAGES.get(kind.name) if type(kind) is Stub else None
        if dtype is None or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**48:
            raise ValueError("a storage of an unknown kind, key or size")
        if len(key) > MAX_NAME:
            raise ValueError(f"a storage whose key has {len(key):,} characters")
        if key not in self.storages:
            self.storages[key] = (dtype, numel, self.storage(key, dtype, numel))
            self.known_storages.add(id(self.storages[key][2]))
        if self.storages[key][:2] != (dtype, numel):
            raise ValueError(f"the storage {key!r} is used as two kinds")
        return self.storages[key][2]

    def call(self, function: Any, arguments: Any) -> Any:
        """The only supported calls; any other gives a stub of its name."""
        if type(function) is not Stub or type(arguments) is not tuple:
            raise ValueError(f"a call of a {type(function).__name__} with a {type(arguments).__name__}")
        name = function.name
        if name in DICTS:
            items = arguments[0] if len(arguments) == 1 and type(arguments[0]) in (list, tuple) else ()
            self.spend(len(items))
            if not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
                raise ValueError(f"{name} of something else than pairs")
            return self.fill({}, [part for item in items for part in item])
        if name in REBUILDS:
            return self.rebuild(name.rpartition("_rebuild_")[2], arguments)
        if name == SUBCLASS and len(arguments) >= 3 and type(arguments[0]) is Stub and arguments[0].name in REBUILDS:
            return self.call(arguments[0], arguments[2])
        if name == "torch.Size" and len(arguments) == 1 and isinstance(arguments[0], tuple | list):
            self.spend(len(arguments[0]))
            return tuple(arguments[0])
        if name == "torch.device" and len(arguments) in (1, 2) and all(type(part) in (str, int) for part in arguments):
            return ":".join(str(part)[:MAX_NAME] for part in arguments)
        if name == "_codecs.encode" and len(arguments) == 2 and type(arguments[0]) is str and len(arguments[0]) <= 16:
            return arguments[0].encode("latin1")  # older protocols write the bytes of a numpy scalar so
        if name == "numpy.dtype" and arguments and type(arguments[0]) is str and arguments[0] in NUMBERS:
            return Stub(f"numpy.dtype {arguments[0]}")
        if name in SCALARS and len(arguments) == 2 and type(arguments[0]) is Stub and type(arguments[1]) is bytes:
            kind = arguments[0].name.removeprefix("numpy.dtype ")
            if kind in NUMBERS and len(arguments[1]) == int(kind[1:]):
                return np.frombuffer(arguments[1], np.dtype(kind))[0].item()
        if name in RECONSTRUCTORS and arguments and type(arguments[0]) is Stub:
            return self.stub(arguments[0].name)
        return self.stub(name)

    def rebuild(self, kind: str, arguments: tuple[Any, ...]) -> Tensor:
        """Tensor that ``torch._utils._rebuild_{kind}`` would return, as a view of its storage."""
        if kind.startswith("parameter"):
            if not isinstance(arguments[0], Tensor):
                raise ValueError("a parameter of something else than a tensor")
            return arguments[0]
        flat, offset, shape, strides = arguments[:4]
        if id(flat) not in self.known_storages:
            raise ValueError("a tensor of something else than a storage")
        if kind == "tensor_v3":
            dtype = arguments[6]
            if type(dtype) is not torch.dtype or flat.numel() * flat.element_size() % dtype.itemsize:
                raise ValueError("a tensor whose storage is not of its dtype")
            flat = flat.view(dtype)
        check_layout(flat.numel(), offset, shape, strides)
        return flat.as_strided(shape, strides, flat.storage_offset() + offset)


def check_layout(numel: int, offset: Any, shape: Any, strides: Any) -> None:
    """Checks that a tensor lies within a storage of ``numel`` values and has no more values than it.

    Raises:
        ValueError: It does not.
    """
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > 32:
        raise ValueError("a tensor without proper sizes and strides")
    if not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor whose offset, sizes or strides are not counts")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if offset > numel or (0 not in shape and (last >= numel or math.prod(shape) > numel)):
        raise ValueError(f"a tensor of sizes {shape} and strides {strides} at {offset} in a storage of {numel} values")


def checked_tree(tree: Any) -> Any:
    """Checks that a tree can be traversed: no cycle, bounded depth, and bounded size when unfolded; returns it.

    Raises:
        ValueError: The tree violates a bound.
    """
    sizes: dict[int, int] = {}
    open_now: set[int] = set()
    pending = [(tree, False)]
    while pending:
        node, done = pending.pop()
        if type(node) not in (dict, list, tuple):
            continue
        inner = node.values() if type(node) is dict else node
        if done:
            open_now.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes.get(id(part), 1) for part in inner)
            if sizes[id(node)] > MAX_STEPS:
                raise ValueError(f"its containers hold one another, unfolded more than {MAX_STEPS:,} values")
        elif id(node) in open_now:
            raise ValueError("its containers hold themselves")
        elif id(node) not in sizes:
            open_now.add(id(node))
            if len(open_now) > MAX_DEPTH:
                raise ValueError(f"its containers are nested more than {MAX_DEPTH} deep")
            pending.append((node, True))
            pending.extend((part, False) for part in inner)
    return tree
