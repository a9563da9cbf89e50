"""PyTorch on the CPU as a rival of `smallmind bench kernels`: MKL's `f32`, oneDNN's `bf16`, its own kernels for the rest.

The contender `pytorch` is what eager code calls. `onednn` is the `f32` product that `torch.compile` puts in place of a linear
layer: on some processors the faster one.
"""

import re

import protocol

# A result of some megabytes is then a block that was freed before and not fresh pages from the system at every call.
protocol.start_over(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(1 << 40))

import torch

import pytorch_kernels as kernels
import pytorch_matmul as matmul


def onednn_version():
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return found[1] if found else "unknown"


def main():
    products = {"matmul/f32": matmul.f32, "gemv/f32": matmul.f32, "matmul/bf16": matmul.bf16, "gemv/bf16": matmul.bf16}
    contenders = [
        protocol.Contender("pytorch", torch.__version__, torch.set_num_threads, products | kernels.KERNELS),
    ]
    if matmul.has_onednn():
        version = f"{onednn_version()} (PyTorch {torch.__version__})"
        contenders.append(
            protocol.Contender("onednn", version, torch.set_num_threads, {"matmul/f32": matmul.onednn_f32})
        )
    torch.manual_seed(1337)
    protocol.serve("pytorch", torch.__version__, contenders)


if __name__ == "__main__":
    main()
