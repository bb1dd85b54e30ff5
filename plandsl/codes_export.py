"""The codes of `planc export` and `planc import`: title, text, an example, and what to do."""

from __future__ import annotations

EXPORT_CODES: dict[str, tuple[str, str, str, str]] = {
    "E500": (
        "unknown target of an export",
        "`planc export FILE --to TARGET` writes a plan for one of the tools that it knows by name.",
        "",
        "take one of the targets that the hint lists.",
    ),
    "E501": (
        "the export needs an output",
        "Some exports are several files, or a file that is no text. They are not printed.",
        "",
        "name a file or a folder with `-o`.",
    ),
    "E502": (
        "no engine shards so",
        "Engines have degrees: tensor, pipeline, data, sequence, context and expert parallelism. An axis of the mesh "
        "that splits other dimensions together, or a rule for a single block, has no argument in any of them.",
        "",
        "use the degrees that the hint lists, or export to a tool that takes any sharding.",
    ),
    "E503": (
        "the engine cannot do this",
        "The plan asks for something that this engine has no argument for. An export leaves nothing out that changes "
        "what is computed where.",
        "",
        "the hint names another engine, or another way to write the plan.",
    ),
    "E504": (
        "the engine has no such format",
        "The KV cache of the plan, or the states of its layers, have a format that the engine cannot store.",
        "",
        "take one of the formats that the hint lists.",
    ),
    "E505": (
        "nothing to import",
        "`planc import` reads a launch command of vLLM, SGLang or TensorRT-LLM, a script with such commands, or a "
        "manifest of Kubernetes whose containers run them; one kind of server, or the two of pools. The model must be "
        "one of the catalog, or a folder with a config.json.",
        "",
        "put `--` before the words of a command, and name the model with `--model` where the command does not.",
    ),
    "E506": (
        "unknown flag",
        "The engine has no such argument in the release whose arguments planc knows (docs/engines.md).",
        "",
        "the hint names the nearest flag; leave out what says nothing of the plan.",
    ),
    "E507": (
        "invalid value of a flag",
        "The flag takes another kind of value: a whole number, a word of a list, or JSON.",
        "",
        "give what the hint expects.",
    ),
    "E508": (
        "flags that make no plan",
        "The flags contradict one another or the model, or the language has nothing for what they ask.",
        "",
        "change the flag that the message points at.",
    ),
    "E509": (
        "the YAML cannot be read",
        "A manifest or a `--config` file is read by PyYAML, which does not come with plandsl.",
        "",
        "`pip install 'plandsl[yaml]'`, or correct the file at the place shown.",
    ),
    "N500": (
        "what an import leaves out or assumes",
        "Flags about ports, logs, tokenizers or kernels say nothing of a plan. A command line does not say on which "
        "GPUs it runs.",
        "",
        "",
    ),
    "N528": (
        "flags that an import does not read",
        "They are arguments of the engine, but an import has no word for what they change. The plan is that of the "
        "engine's defaults for them.",
        "",
        "",
    ),
    "N529": (
        "host memory worked out from a ratio",
        "`--hicache-ratio` gives the size of host memory as a multiple of the KV cache of a GPU. A plan has bytes: the "
        "ratio times the cache that the plan has room for.",
        "",
        "",
    ),
    "N540": (
        "a load that a plan cannot say",
        "A benchmark can send requests at a rate, and hold them back while so many are in flight. A workload "
        "has one or the other.",
        "",
        "",
    ),
    "N541": (
        "a format of weights that is not known",
        "Some values of `--quantization` name how a checkpoint was made, and not its format.",
        "",
        "write the format of the checkpoint into the plan: `weights = int4_128`.",
    ),
    "W500": (
        "what an export leaves out",
        "The engine decides this by itself, in another way than the plan says. The file has a comment about it.",
        "",
        "nothing, if the engine's own way is fine.",
    ),
    "E516": (
        "a format that jax.numpy lacks",
        "A program keeps the number formats of its plan, and jax.numpy has no type for this one.",
        "",
        "set the format to another one with `--set`, or compare small dimensions with `planc run --shrink`.",
    ),
    "E517": (
        "jax is not installed",
        "`planc run` runs a program with jax, an optional part of plandsl.",
        "",
        "install it with `pip install 'plandsl[run]'`.",
    ),
    "E518": (
        "the exported program failed",
        "The program ran in a process of its own, which ended with this message.",
        "",
        "write the program with `planc export --to jax -o FILE.py` and run it, to see the whole message.",
    ),
    "E519": (
        "too few devices",
        "At real sizes each rank of a plan is one device that jax finds.",
        "",
        "run small dimensions on devices of the host with `--shrink`, or run a plan with fewer ranks.",
    ),
    "E537": (
        "too little memory for the program",
        "A program at real sizes holds the weights and the cache of its plan, and the values of its steps. The devices "
        "that jax finds, or the machine, have less memory.",
        "",
        "take more ranks, a smaller batch or shorter prompts with `--set`, or run small dimensions with `--shrink`. "
        "`planc compile` says what a plan holds on each GPU.",
    ),
    "E520": (
        "formats that the device refuses",
        "A program at real sizes keeps the formats of its plan. The device could not multiply matrices in these.",
        "",
        "set the formats to others with `--set`, or run small dimensions with `--shrink`.",
    ),
}
