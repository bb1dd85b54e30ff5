"""The codes of `planc measure`, and of `planc calibrate` on its files: title, text, an example, and what to do."""

from __future__ import annotations

MEASURE_CODES: dict[str, tuple[str, str, str, str]] = {
    "E541": (
        "rows of another library",
        "jax and PyTorch have kernels of their own. A fit to rows of both would fit neither.",
        "",
        "name another file with `-o`, or the library of the rows with `--with`.",
    ),
    "E550": (
        "nothing to measure with",
        "`planc measure` runs kernels with jax, an optional part of plandsl, or with PyTorch where it is installed.",
        "",
        "install jax with `pip install 'plandsl[run]'`, or name the library that is there with `--with`.",
    ),
    "E551": (
        "no device to measure",
        "The library is installed, but it finds no device. The message has its reason.",
        "",
        "check the drivers, or `JAX_PLATFORMS`: `JAX_PLATFORMS=cpu planc measure ...` measures the CPU.",
    ),
    "E552": (
        "the output is no file of `planc measure`",
        "`planc measure -o OUT` goes on with the rows of an earlier run. It does not write over another file.",
        "",
        "name another file with `-o`, or remove this one.",
    ),
    "E553": (
        "rows of another GPU or device",
        "A file holds the rows of one GPU, under one name. Rows of two devices together would fit neither.",
        "",
        "name another file with `-o`, or the name that the rows have with `--gpu`.",
    ),
    "E554": (
        "nothing that a calibration can be fitted to",
        "A set of rows is fitted where it has twelve rows or more, of a GPU whose peaks and number of units are known: "
        "the catalog has it, or `planc measure` measured it. None of the sets is so.",
        "",
        "measure more, or correct the names in the column `gpu`.",
    ),
    "N530": (
        "kernels that time did not allow",
        "`planc measure` starts no kernel after `--seconds`. What it has is in the file.",
        "",
        "run the same command again: it goes on where it stopped.",
    ),
    "N531": (
        "kernels that are not measured",
        "The device or the library cannot run these kernels, or one call takes too long. The hint has the reason.",
        "",
        "nothing: their times come from fitted constants, as those of all sizes that were not measured.",
    ),
    "N532": (
        "ops that no table of measurements holds",
        "Layers of experts, latent attention, layers with a state, writing the cache and moving single rows have no "
        "measurement here.",
        "",
        "nothing: their times come from the constants of other GPUs.",
    ),
    "N533": (
        "rows of a GPU that nothing describes",
        "A fit needs the peaks of a GPU. The catalog has no GPU of this name, and no rows of `planc measure` have its "
        "peaks.",
        "",
        "name a GPU of the catalog in the column `gpu`, or measure with `planc measure`.",
    ),
    "N534": (
        "repetitions that differ much",
        "Something else ran on this machine. `time_s` is the least of the repetitions, beside `median_s` and `p90_s`.",
        "",
        "measure again on a machine that does nothing else.",
    ),
}
