"""llama.cpp as a library: models, contexts and its own quantizer, through the C interface of libllama.

Structures are passed by value as bytes, since only a few of their fields are set here. The places of the fields are
those of llama.cpp v0.5.0; `check_places` refuses a library whose defaults lie elsewhere.
"""

import ctypes
import pathlib
import struct
import subprocess

import numpy


class Structure(ctypes.Structure):
    """A structure of libllama, with room for more than its fields."""

    _fields_ = [("bytes", ctypes.c_uint8 * 256)]

    def put(self, at, form, value):
        struct.pack_into("<" + form, memoryview(self.bytes).cast("B"), at, value)

    def get(self, at, form):
        return struct.unpack_from("<" + form, bytes(self.bytes), at)[0]


class Batch(ctypes.Structure):
    _fields_ = [("tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6)]


# llama_context_params
N_CTX, N_BATCH, N_UBATCH, THREADS, THREADS_BATCH, FLASH_ATTENTION, TYPE_K, TYPE_V = 0, 4, 8, 28, 32, 52, 104, 108
CALLBACK, CALLBACK_DATA = 88, 96
# llama_model_quantize_params: threads, number of the mix, flags, and the importance matrix
QUANTIZE_THREADS, QUANTIZE_MIX, QUANTIZE_OUTPUT, QUANTIZE_IMPORTANCE = 0, 4, 17, 24
F16, DEFAULT_MIX = 1, 7


class Importance(ctypes.Structure):
    """`llama_model_imatrix_data`: mean squares of the columns of a tensor; a list of them ends with one without a name."""

    _fields_ = [("name", ctypes.c_char_p), ("values", ctypes.POINTER(ctypes.c_float)), ("count", ctypes.c_size_t)]


class Tensor(ctypes.Structure):
    """`ggml_tensor`."""


Tensor._fields_ = [
    ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("shape", ctypes.c_int64 * 4), ("strides", ctypes.c_size_t * 4),
    ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
    ("sources", ctypes.POINTER(Tensor) * 10), ("view_source", ctypes.c_void_p), ("view_offset", ctypes.c_size_t),
    ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
]
EVALUATED = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(Tensor), ctypes.c_bool, ctypes.c_void_p)


class LlamaCpp:
    def __init__(self, path, threads=1):
        folder = pathlib.Path(path).resolve().parent
        for name in sorted(folder.glob("libggml-base*.so*")) + sorted(folder.glob("libggml.*so*")):
            ggml = ctypes.CDLL(str(name), ctypes.RTLD_GLOBAL)
        self.lines = []
        log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.log = log(lambda level, text, data: self.lines.append(text.decode(errors="replace")))
        ggml.ggml_log_set(self.log, None)
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        ggml.ggml_op_name.restype, ggml.ggml_op_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
        self.ggml, self.library = ggml, ctypes.CDLL(path)
        lib = self.library
        lib.llama_log_set(self.log, None)
        lib.llama_backend_init()
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        for name, result, arguments in [
            ("llama_model_default_params", Structure, []),
            ("llama_context_default_params", Structure, []),
            ("llama_model_quantize_default_params", Structure, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Structure]),
            ("llama_init_from_model", pointer, [pointer, Structure]),
            ("llama_model_quantize", ctypes.c_uint32, [ctypes.c_char_p, ctypes.c_char_p, pointer]),
            ("llama_model_free", None, [pointer]),
            ("llama_free", None, [pointer]),
            ("llama_n_ctx", ctypes.c_uint32, [pointer]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", integer, [pointer]),
            ("llama_batch_get_one", Batch, [pointer, integer]),
            ("llama_decode", integer, [pointer, Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, integer]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
            ("llama_tokenize", integer, [pointer, ctypes.c_char_p, integer, pointer, integer] + 2 * [ctypes.c_bool]),
            (
                "llama_detokenize",
                integer,
                [pointer, pointer, integer, ctypes.c_char_p, integer] + 2 * [ctypes.c_bool],
            ),
        ]:
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.threads = threads
        self.check_places()

    def check_places(self):
        context, quantize = self.library.llama_context_default_params(), self.library.llama_model_quantize_default_params()
        expected = [(N_CTX, 512), (N_BATCH, 2048), (N_UBATCH, 512), (FLASH_ATTENTION, -1), (TYPE_K, F16), (TYPE_V, F16)]
        as_expected = all(context.get(at, "i") == value for at, value in expected)
        as_expected &= quantize.get(QUANTIZE_MIX, "i") == DEFAULT_MIX and quantize.get(QUANTIZE_OUTPUT, "B") == 1
        if not as_expected:
            raise SystemExit("the fields of libllama's structures lie elsewhere than in v0.5.0")

    def quantize(self, source, to, mix, importance=None):
        """Writes the GGUF file `to` with llama.cpp's own quantizer, in the mix of that number, with the mean squares of
        columns by names of tensors."""
        parameters = self.library.llama_model_quantize_default_params()
        parameters.put(QUANTIZE_THREADS, "i", self.threads)
        parameters.put(QUANTIZE_MIX, "i", mix)
        values = {name: numpy.ascontiguousarray(means, dtype=numpy.float32) for name, means in (importance or {}).items()}
        entries = (Importance * (len(values) + 1))()
        for entry, (name, means) in zip(entries, values.items()):
            entry.name, entry.count = name.encode(), means.size
            entry.values = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if values:
            parameters.put(QUANTIZE_IMPORTANCE, "Q", ctypes.addressof(entries))
        failed = self.library.llama_model_quantize(str(source).encode(), str(to).encode(), ctypes.byref(parameters))
        if failed:
            raise RuntimeError("".join(self.lines[-5:]))

    def open(self, path, context, evaluated=None):
        return Model(self, path, context, evaluated)


class Model:
    """A model with a context of `context` positions, whose keys and values are F32. `evaluated` is asked about every
    tensor that is computed, and told of those that it wants."""

    def __init__(self, llama, path, context, evaluated=None):
        self.library = lib = llama.library
        llama.lines.clear()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp does not load it: " + "".join(llama.lines[-4:]).strip())
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocabulary)
        parameters = lib.llama_context_default_params()
        for at, value in [
            (N_CTX, context), (N_BATCH, context), (N_UBATCH, context), (THREADS, llama.threads),
            (THREADS_BATCH, llama.threads), (FLASH_ATTENTION, 0), (TYPE_K, 0), (TYPE_V, 0),
        ]:
            parameters.put(at, "i", value)
        if evaluated:
            self.evaluated = EVALUATED(lambda tensor, asked, data: evaluated(tensor.contents, asked))
            parameters.put(CALLBACK, "Q", ctypes.cast(self.evaluated, ctypes.c_void_p).value)
        self.context = lib.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context: " + "".join(llama.lines[-4:]).strip())
        assert lib.llama_n_ctx(self.context) >= context

    def close(self):
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def logits(self, tokens):
        """The logits after `tokens`, which follow those before."""
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self.library.llama_batch_get_one(ids, len(tokens))
        if self.library.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        row = self.library.llama_get_logits_ith(self.context, -1)
        return numpy.ctypeslib.as_array(row, (self.size,)).copy()

    def all_logits(self, tokens):
        """The logits after each of `tokens`, with nothing before them."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        count = len(tokens)
        ids, positions, spans = (ctypes.c_int32 * count)(*tokens), (ctypes.c_int32 * count)(*range(count)), (ctypes.c_int32 * count)(*[1] * count)
        zero = ctypes.c_int32(0)
        sequences = (ctypes.c_void_p * count)(*[ctypes.addressof(zero)] * count)
        wanted = (ctypes.c_int8 * count)(*[1] * count)
        batch = Batch(count, (ctypes.c_void_p * 6)(*[ctypes.addressof(x) if x is not None else 0 for x in (ids, None, positions, spans, sequences, wanted)]))
        if self.library.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        rows = [self.library.llama_get_logits_ith(self.context, at) for at in range(count)]
        return numpy.array([numpy.ctypeslib.as_array(row, (self.size,)).copy() for row in rows])

    def greedy(self, prompt, count):
        """As `crates/model/examples/greedy.rs`: tokens, their gaps to the next best, and the logits after the prompt."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        logits = first = self.logits(prompt)
        tokens, gaps = [], []
        while len(tokens) < count:
            best = int(logits.argmax())
            second = numpy.partition(logits, -2)[-2]
            tokens.append(best)
            gaps.append(float(logits[best] - second))
            logits = self.logits([best])
        return {"tokens": tokens, "gaps": gaps, "logits": first}

    def encode(self, text):
        text = text.encode()
        ids = (ctypes.c_int32 * (len(text) + 16))()
        count = self.library.llama_tokenize(self.vocabulary, text, len(text), ids, len(ids), True, True)
        return list(ids[:count])

    def decode(self, tokens):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        room = ctypes.create_string_buffer(64 * len(tokens) + 64)
        count = self.library.llama_detokenize(self.vocabulary, ids, len(tokens), room, len(room), False, True)
        return room.raw[:count].decode(errors="replace")


def smallmind(asked, *arguments):
    done = subprocess.run([asked.bin / "smallmind", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(" ".join((done.stderr or done.stdout).split()))
    return done.stdout


class Table:
    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8") if path else None

    def line(self, text=""):
        print(text, flush=True)
        if self.file:
            self.file.write(text.rstrip() + "\n")
            self.file.flush()
