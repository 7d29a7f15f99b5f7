# SPDX-License-Identifier: Apache-2.0
"""Writes the C source of the extension `tierstore._native._core`; meson runs it.

The declarations are the installed headers themselves, seen through the preprocessor with TS_CDEF
set (which hides their includes) and TS_API empty.  There is no second copy to keep in step.
What is added here is what no header can say: the functions that C calls and Python implements.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from cffi import FFI

MODULE = "tierstore._native._core"

# Stores written in Python (store.h says what each must do), the log, and an import's progress.
# They run with the GIL, hence never on a fault thread of another tier: the ops table must say
# TS_STORE_BLOCKING_GET.
CALLBACKS = """
extern "Python" {
    int py_store_open(const struct ts_store_config *config, struct ts_store **store_out);
    void py_store_close(struct ts_store *store);
    int py_store_put(struct ts_store *store, struct ts_put *items, unsigned nr_items);
    int py_store_del(struct ts_store *store, const uint64_t *keys, unsigned nr_keys);
    int py_store_reader_open(struct ts_store *store, struct ts_reader **reader_out);
    void py_store_reader_close(struct ts_reader *reader);
    int py_store_get(struct ts_reader *reader, struct ts_get *request);
    int py_store_reap(struct ts_reader *reader, struct ts_get **done, unsigned done_max,
                      int wait_ms);
    int py_store_maintain(struct ts_store *store);
    int py_store_stat(struct ts_store *store, struct ts_store_stat *stat);
    void py_log(void *user, int level, const char *text);
    int py_progress(void *user, uint64_t done_bytes, uint64_t len_bytes);
}
"""


def preprocess(compiler: list[str], headers: list[Path], defines: list[str]) -> str:
    """The headers' declarations, in order, as cffi reads them.

    Each header goes through the preprocessor on its own: with TS_CDEF they include nothing.
    """
    parts = []
    for header in headers:
        command = [*compiler, "-E", "-P", "-x", "c", "-DTS_CDEF", "-DTS_API="]
        command += [f"-D{name}" for name in defines] + [str(header)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        parts.append(done.stdout)
    return "\n".join(parts)


def main(argv: list[str]) -> int:
    """Command line: --out FILE [--define NAME] --header FILE... -- COMPILER..."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--define", action="append", default=[])
    parser.add_argument("--header", type=Path, action="append", required=True)
    parser.add_argument("compiler", nargs="+")
    args = parser.parse_args(argv)

    source = "".join(f"#define {name}\n" for name in args.define)
    source += "".join(f'#include "{header.resolve()}"\n' for header in args.header)
    declarations = preprocess(args.compiler, args.header, args.define)
    ffi = FFI()
    ffi.cdef(declarations + CALLBACKS)
    ffi.set_source(MODULE, source)
    ffi.emit_c_code(str(args.out))
    args.out.touch()  # cffi leaves an unchanged file alone, and ninja would call us for ever
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
