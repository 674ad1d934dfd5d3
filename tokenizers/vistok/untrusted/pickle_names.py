"""Names in the pickles of checkpoints that have a meaning here; all others become inert stubs."""

import torch

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()}
STORAGES |= {"torch.storage.UntypedStorage": torch.uint8, "torch.UntypedStorage": torch.uint8}
_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "double", "float", "half")
_OTHERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool", "long", "int", "short")
DTYPES = {f"torch.{name}": getattr(torch, name) for name in (*_FLOATS, *_OTHERS, "complex64", "complex128")}
DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
REBUILDS = tuple(f"torch._utils._rebuild_{name}" for name in
                 ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state"))  # fmt: skip
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor")
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
KNOWN = {*STORAGES, *DICTS, *REBUILDS, *SCALARS, *RECONSTRUCTORS, SUBCLASS, "torch.Size", "torch.device"}
KNOWN |= {"numpy.dtype", "_codecs.encode"}
NUMBERS = {
    f"{kind}{size}" for kind, sizes in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items() for size in sizes
}
