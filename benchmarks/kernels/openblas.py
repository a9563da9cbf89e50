"""OpenBLAS as a rival of `smallmind bench kernels`: the library that NumPy's wheels bring along.

Products go through `numpy.matmul` and, where the library exports it, straight to `cblas_sgemm` or `cblas_sgemv`.
"""

import ctypes

import protocol

# The first two would choose kernels and block sizes for another processor than this one. The timeout makes idle threads look for work for
# 2^20 clock cycles (0.3 ms) instead of many milliseconds, in which they would take the CPU from the contender that comes next; within
# a sample, where one product follows the other, they never wait that long.
protocol.start_over(without=("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"), OPENBLAS_THREAD_TIMEOUT="20")

import numpy as np
import threadpoolctl

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
# The names under which wheels export a function, with the integers that it takes.
SYMBOLS = [
    ("scipy_cblas_{}64_", ctypes.c_int64),
    ("cblas_{}64_", ctypes.c_int64),
    ("scipy_cblas_{}", ctypes.c_int32),
    ("cblas_{}", ctypes.c_int32),
]
CHECKED = 64


def openblas():
    """What threadpoolctl says about the OpenBLAS that NumPy has loaded."""
    for pool in threadpoolctl.threadpool_info():
        if pool["internal_api"] == "openblas":
            return pool
    raise SystemExit("openblas: this NumPy does not come with OpenBLAS")


def cblas(name):
    """The function `name` and its integer type, or None where the library doesn't export it."""
    library = ctypes.CDLL(openblas()["filepath"])
    for pattern, integer in SYMBOLS:
        if function := getattr(library, pattern.format(name), None):
            function.restype = None
            return function, integer
    return None


def aligned(*shape):
    """A random array in [-1, 1) that begins at a cache line, as rivals' arrays do."""
    count = int(np.prod(shape))
    buffer = np.empty(count + 16, np.float32)
    start = -buffer.ctypes.data % 64 // 4
    array = buffer[start : start + count].reshape(shape)
    array[...] = np.random.default_rng(1).random(shape, np.float32) * 2 - 1
    return array


def sgemm(a, b, c, layout, accumulate):
    """A call of `cblas_sgemm` with its arguments converted beforehand, or None."""
    if not (found := cblas("sgemm")):
        return None
    function, integer = found
    real, pointer = ctypes.c_float, lambda array: ctypes.c_void_p(array.ctypes.data)
    (m, n), k = c.shape, a.shape[0 if layout == "tn" else 1]
    arguments = (
        ctypes.c_int(ROW_MAJOR),
        ctypes.c_int(TRANSPOSED if layout == "tn" else PLAIN),
        ctypes.c_int(TRANSPOSED if layout == "nt" else PLAIN),
        *map(integer, (m, n, k)),
        real(1),
        pointer(a),
        integer(a.shape[1]),
        pointer(b),
        integer(b.shape[1]),
        real(1 if accumulate else 0),
        pointer(c),
        integer(n),
    )
    return lambda: function(*arguments)


def sgemv(matrix, x, y, turned, accumulate):
    """A call of `cblas_sgemv`, y = matrix x or its transpose, or None."""
    if not (found := cblas("sgemv")):
        return None
    function, integer = found
    real, pointer = ctypes.c_float, lambda array: ctypes.c_void_p(array.ctypes.data)
    arguments = (
        ctypes.c_int(ROW_MAJOR),
        ctypes.c_int(TRANSPOSED if turned else PLAIN),
        *map(integer, matrix.shape),
        real(1),
        pointer(matrix),
        integer(matrix.shape[1]),
        pointer(x),
        integer(1),
        real(1 if accumulate else 0),
        pointer(y),
        integer(1),
    )
    return lambda: function(*arguments)


def matmul(params):
    """C[m, n] = op(A) op(B), or +=; a gemv is the `nt` product of one row."""
    layout, accumulate = params.get("layout", "nt"), params.get("accumulate", False)
    m, n, k = params.get("m", 1), params["n"], params["k"]
    if layout not in ("nn", "nt", "tn"):
        raise protocol.Unsupported(f"no layout {layout}")
    a = aligned(*((k, m) if layout == "tn" else (m, k)))
    b = aligned(*((n, k) if layout == "nt" else (k, n)))
    c = aligned(m, n)
    left, right = (a.T if layout == "tn" else a), (b.T if layout == "nt" else b)
    ways = {"cblas_sgemm": sgemm(a, b, c, layout, accumulate)}
    if m == 1:
        ways["cblas_sgemv"] = sgemv(b, a, c, layout != "nt", accumulate)
    if not accumulate:
        ways["numpy.matmul"] = lambda: np.matmul(left, right, out=c)
    ways = {name: way for name, way in ways.items() if way}
    if not ways:
        raise protocol.Unsupported("no cblas_sgemm in NumPy's OpenBLAS, and NumPy does not accumulate")

    generator = np.random.default_rng(2)
    rows, columns = generator.integers(m, size=CHECKED), generator.integers(n, size=CHECKED)
    products = left[rows].astype(np.float64) * right[:, columns].T.astype(np.float64)

    def check(way):
        before = c[rows, columns].astype(np.float64) if accumulate else 0.0
        if not accumulate:
            c.fill(np.nan)
        way()
        error = np.abs(c[rows, columns] - (products.sum(axis=1) + before))
        bound = (k + 1) * np.finfo(np.float32).eps * (np.abs(products).sum(axis=1) + np.abs(before))
        # Written so that a NaN fails.
        if not (error <= bound).all():
            raise protocol.Wrong(f"off by up to {error.max()}")

    return protocol.Case(ways, check, operands=(a, b, c))


def set_threads(threads):
    threadpoolctl.threadpool_limits(threads, user_api="blas")


if __name__ == "__main__":
    # The library's first product settles which kernels it runs.
    np.matmul(np.ones((64, 64), np.float32), np.ones((64, 64), np.float32))
    found = openblas()
    version = f"{found['version']} ({found['architecture']}, NumPy {np.__version__})"
    kernels = {"matmul/f32": matmul, "gemv/f32": matmul}
    protocol.serve("openblas", version, [protocol.Contender("openblas", version, set_threads, kernels)])
