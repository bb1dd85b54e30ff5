"""The codes of files of weights and of adapters: title, text, an example, and what to do."""

from __future__ import annotations

HEADER_CODES: dict[str, tuple[str, str, str, str]] = {
    "E485": (
        "a file of weights cannot be read",
        "`hf` reads the index and the headers of safetensors files in a folder, and `gguf` the header of a GGUF file; "
        "neither reads data. A file is refused where its header is cut off, does not fit its size, or contradicts "
        "itself: offsets that overlap, names given twice, unknown types. At most 33,554,432 bytes of a header, "
        "1,000,000 tensors and 2,000 files are read, and no file outside the folder of the plan.",
        "",
        "fetch the file again; a link that leads out of the folder needs a copy of its file.",
    ),
    "E486": (
        "a tensor has another shape than the config says",
        "The message gives the shape of the tensor and the elements of the weight. One of the two is wrong, so no "
        "bytes are counted.",
        "",
        "take the config.json of this checkpoint.",
    ),
    "E487": (
        "adapters that the model cannot have",
        "`lora` names weights that the blocks of the model multiply by with `@`, outside of `experts` and of the "
        "unpacking of a latent cache. A batch has requests of at most as many adapters as a GPU holds. No rule splits "
        "`adapters`: a rank has its part of each.",
        "model adapted = llama_3_1_8b with {\n  lora { adapters = 2, rank = 16, targets = [w_qkv] }\n}\n"
        "plan serve { model = adapted, node = h100_1, workload { input = 1000, output = 100 } }\n",
        "take a name that the hint offers; `targets = all` means every such weight.",
    ),
    "E535": (
        "requests name adapters that the plan cannot load",
        "A workload with `adapters` says which adapter (LoRA) each request names. The model then needs `lora`, and in "
        "it `host_bandwidth`: how fast a GPU loads an adapter from host memory, in bytes per second.",
        "plan serve {\n  model = llama_3_1_8b, node = h100_1\n"
        "  workload { input = 1000, output = 100, rate = 4 req/s, adapters = zipf(1.1, max = 100) }\n}\n",
        "add `lora { ... }` with `host_bandwidth` to the model, or drop `adapters` of the workload.",
    ),
    "E536": (
        "memory behind the adapters of a GPU that makes no sense",
        "`host_adapters` bounds the adapters in host memory. It holds a copy of each adapter on a GPU, so it is at "
        "least `adapters`; the others are read at `disk_bandwidth`. Each of these fields needs `host_bandwidth`.",
        "model adapted = llama_3_1_8b with {\n"
        "  lora { adapters = 8, rank = 16, targets = all, host_bandwidth = 25 GB/s, host_adapters = 64 }\n}\n"
        "plan serve { model = adapted, node = h100_1, workload { input = 1000, output = 100 } }\n",
        "add the field that the message names, or drop the other one.",
    ),
    "N485": (
        "no kernel of this format is measured",
        "Weights in the quantised types of GGUF files are unpacked before they are multiplied. Bytes of such a type "
        "are exact, in memory and in what a step reads. The arithmetic runs in `compute`. No calibration has measured "
        "such kernels: they take the times of weight-only kernels with about as many bits.",
        "plan serve {\n  model = llama_3_1_8b with { weights = q4_k, compute = bf16 }\n  node = h100_1\n"
        "  workload { input = 1000, output = 100 }\n}\n",
        "nothing, if the memory is what you ask for; else measure, and calibrate with the results.",
    ),
    "N487": (
        "no kernel of adapters is measured",
        "Each target of `lora` runs two more products. No calibration has measured them: their time follows from their "
        "bytes and FLOPs, and is at least the time of the smallest GEMM. Servers with adapters were seen to lose a "
        "tenth to a half of their speed, so the bands of an engine reach twice as far.",
        "plan serve {\n  model = llama_3_1_8b with { lora { adapters = 2, rank = 16, targets = all } }\n"
        "  node = h100_1\n  workload { input = 1000, output = 100 }\n}\n",
        "nothing; measure your server where the difference matters.",
    ),
    "N515": (
        "the closed form loads no adapters",
        "Requests name adapters. `planc simulate`, and the simulation of `planc compile`, keep those on a GPU that "
        "fit, load the others, and let requests wait for a slot. Numbers in closed form have every adapter on its GPU.",
        "plan serve {\n"
        "  model = llama_3_1_8b with { lora { adapters = 8, rank = 16, targets = all, host_bandwidth = 25 GB/s } }\n"
        "  node = h100_1\n"
        "  workload { input = 1000, output = 100, rate = 4 req/s, adapters = zipf(1.1, max = 100) }\n}\n",
        "nothing; read the simulation where adapters matter.",
    ),
    "N486": (
        "what the headers of a checkpoint say other than its config",
        "The model has the formats of the tensors. A note names the first tensor to which the config gives "
        "another format, the first that has no place in the model, the first whose file is missing, or the first "
        "weight that no tensor holds.",
        "",
        "nothing, if the checkpoint is the one that you serve.",
    ),
}
