"""Token formats of published generators: writers and readers."""

from vistok.tokens.exchange.array_pairs import read_fqgan, read_llamagen, write_fqgan, write_llamagen
from vistok.tokens.exchange.lines import read_jsonl, write_jsonl
from vistok.tokens.exchange.records import LAYOUTS, Record
from vistok.tokens.exchange.tar import read_webdataset, write_webdataset

WRITERS = {"llamagen": write_llamagen, "fqgan": write_fqgan, "jsonl": write_jsonl, "webdataset": write_webdataset}
READERS = {"llamagen": read_llamagen, "fqgan": read_fqgan, "jsonl": read_jsonl, "webdataset": read_webdataset}

__all__ = [
    "LAYOUTS",
    "READERS",
    "WRITERS",
    "Record",
    "read_fqgan",
    "read_jsonl",
    "read_llamagen",
    "read_webdataset",
    "write_fqgan",
    "write_jsonl",
    "write_llamagen",
    "write_webdataset",
]
