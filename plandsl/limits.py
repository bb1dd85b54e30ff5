"""Bounds that keep an untrusted `.plan` file from taking unbounded time or memory.

Each limit names its diagnostic. An ordinary plan stays far below every limit.
"""

MAX_FILE_BYTES = 262_144
"""Largest source file read, in bytes (E108)."""

MAX_DIGITS = 40
"""Longest number accepted, in digits (E106)."""

MAX_NESTING = 64
"""Deepest nesting of brackets in one file (E107)."""

MAX_ERRORS = 50
"""Most diagnostics shown for one file; further ones are only counted."""

MAX_FILES = 64
"""Files that one root file may reach through `use` (E209)."""

MAX_TABLE_BYTES = 16_777_216
"""Largest file of measurements, in bytes (E450)."""

MAX_TABLES = 16
"""Most files of measured kernels that one gpu or plan may name (E214)."""

MAX_HEADER_BYTES = 33_554_432
"""Most bytes that are read of the header of a file of weights, or of their index (E485)."""

MAX_TENSORS = 1_000_000
"""Most tensors of a checkpoint (E485)."""

MAX_SHARDS = 2_000
"""Most files of weights of a checkpoint (E485)."""

MAX_TENSOR_ELEMENTS = 2**48
"""Most elements of one tensor (E485)."""

MAX_ADAPTERS = 10_000
"""Most adapters of a model that are on a GPU at once (E214)."""

MAX_RANK = 65_536
"""Largest rank of adapters (E214)."""

MAX_EXPANSION = 64
"""Longest chain of `let`, alias and `with` that one value may depend on (E208)."""

MAX_RANKS = 65_536
"""Most ranks of one plan: dp * tp * pp * ... (E306)."""

MAX_LAYERS = 10_000
"""Most layers of a model (E214)."""

MAX_EXPERTS = 4_096
"""Most experts of a layer; popularities have an entry for each (E214)."""

MAX_BALANCED = 512
"""Most layers of a model with `cut = balanced` (E214)."""

MAX_IMAGES = 10_000
"""Most images of a request (E546)."""

MAX_DRAFTED = 256
"""Most tokens that a plan guesses ahead in one step (E214, E224)."""

MAX_STATEMENTS = 500
"""Most statements in one block of a model (E214)."""

MAX_DIMENSION = 10**9
"""Largest size of a model's dimension, batch or sequence length (E214)."""

MAX_LOAD = 10**12
"""Largest number of requests or tokens that an evaluation from Python takes (E445)."""

MAX_COUNT = 100_000
"""Most GPUs in one node (E214)."""

MAX_PLANS = 200
"""Most plans of one file that are compiled in one run (E408)."""

MAX_CHUNKS = 64
"""Most chunks that a GEMM and its collective are cut into (E214)."""

MAX_VALUES = 100_000
"""Most values that one field of a search may take (E214)."""

MAX_COMPILED = 20_000
"""Most plans of one search that differ by more than their load (E409)."""

MAX_TURNS = 1_000
"""Most turns of one conversation (E214)."""

MAX_ZIPF = 1_000_000
"""Largest number that `zipf` draws; its table has an entry for each (E214)."""

MAX_STEPS = 10_000
"""Most times at which a `rate` changes (E240)."""

MAX_BINS = 100_000
"""Most bins into which `trace_rate` cuts a trace (E240)."""

MAX_CLASSES = 64
"""Most classes of requests in a workload (E242)."""

MAX_GRAPHS = 1000
"""Most sizes of CUDA graphs of an engine (E214)."""

MAX_BOUNDS = 8
"""Most bounds on the memory by which an engine chooses its limits, and most words for small GPUs (E214)."""

MAX_NAMES = 256
"""Most GPUs and most models that the bands of an engine name (E214)."""

MAX_TIERS = 8
"""Most tiers of KV memory behind a GPU (E243)."""

MAX_TRACE_BYTES = 1_073_741_824
"""Most bytes that are read of a trace or a file of lengths (E452)."""

MAX_TRACE_LINE = 1_048_576
"""Longest line of such a file, in bytes (E452)."""

MAX_BENCH_BYTES = 268_435_456
"""Largest result file of a benchmark, in bytes (E560)."""

MAX_BENCH_RUNS = 1_000
"""Most runs of benchmarks that are compared at once (E560)."""

MAX_REQUESTS = 100_000_000
"""Most requests that are drawn for one load (E214)."""

MAX_SEEDS = 10_000
"""Most seeds from which Python serves one load (E445)."""

MAX_YAML_NODES = 262_144
"""Most nodes of a YAML file, an alias counted as all that it stands for (E509). Without aliases a text has fewer."""

MAX_YAML_LEVELS = 32
"""Most levels of a YAML file (E509)."""

MAX_TRACE_EVENTS = 1_000_000
"""Most events of a trace that is exported, or nodes of all its files (E511)."""

MAX_TRACE_STEPS = 1_000
"""Most decode steps of a trace that is exported (E400)."""

MAX_VERIFIED = 64
"""Most decode steps that are verified (E400, E445)."""

MAX_WINDOWS = 2_000
"""Most intervals into which a load is cut for its replicas (E214)."""
