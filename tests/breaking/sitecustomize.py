"""First on the path of a worker: what the stage ``BREAK_STAGE`` writes is broken on the disk as soon as it is written, before the
worker loads it again: in each file one tensor whose name ends with ``BREAK_TENSOR``, turned around or, with ``BREAK_HOW``
``transposed``, transposed.
"""

import os
import sys

STAGE, TENSOR, HOW = (os.environ.get(f"BREAK_{name}", "") for name in ("STAGE", "TENSOR", "HOW"))


def break_safetensors() -> None:
    import safetensors.torch as library

    write = library.save_file

    def write_and_break(tensors, filename, metadata=None):
        write(tensors, filename, metadata)
        found = library.load_file(filename)
        for name in [name for name in found if name.endswith(TENSOR)]:
            found[name] = (found[name].T if HOW == "transposed" else found[name].flip(0)).contiguous()
            write(found, filename, metadata)

    library.save_file = write_and_break


def break_gguf() -> None:
    import gguf

    close = gguf.GGUFWriter.close

    def close_and_break(self) -> None:
        path = self.path
        close(self)
        for tensor in gguf.GGUFReader(path, "r+").tensors:
            if tensor.name.endswith(TENSOR):
                tensor.data[:] = tensor.data[::-1].copy()
                tensor.data.flush()

    gguf.GGUFWriter.close = close_and_break


if STAGE and "ft_assets.worker" in sys.orig_argv and STAGE in sys.orig_argv:
    break_safetensors()
    break_gguf()
