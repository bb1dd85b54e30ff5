"""The catalog: what must be in it, and that its figures are those published."""

from __future__ import annotations

import re
from itertools import pairwise
from math import prod

import pytest

from plandsl.backends.cost.answers.counts import active_parameters, kv_bytes_per_token, parameters
from plandsl.driver import compile_text, open_text
from plandsl.grammar import catalog
from plandsl.grammar.fmt import format_text
from plandsl.grammar.modules import CATALOG, FOLDERS, catalog_names
from plandsl.grammar.near import catalog_name
from plandsl.passes.build import build_model
from plandsl.spec.hardware import GpuSpec, NodeSpec
from plandsl.spec.model import ModelSpec
from plandsl.spec.origins import GENERIC, UNMEASURED, vendor_of

GPUS = (
    "a100_sxm",
    "a800",
    "h100_sxm",
    "h100_pcie",
    "h100_nvl",
    "gh200",
    "h200_sxm",
    "h200_nvl",
    "h800",
    "h20",
    "b200_sxm",
    "b300_sxm",
    "gb200",
    "gb300",
    "l40s",
    "rtx_pro_6000",
    "rtx_4090",
    "rtx_3090",
    "a6000",
    "a40",
    "mi210",
    "mi300x",
    "mi308x",
    "mi325x",
    "mi350x",
    "mi355x",
    "a100_pairwise_nvlink",
    "h100_pairwise_nvlink",
)

UNITS = {"a100_sxm": 108, "h100_sxm": 132, "h100_pcie": 114, "h20": 78, "b200_sxm": 148, "l40s": 142, "mi300x": 304}

PARAMETERS = {  # as published with each checkpoint
    "llama_2_7b": 6_738_415_616,
    "llama_2_70b": 68_976_648_192,
    "llama_3_1_8b": 8_030_261_248,
    "llama_3_1_70b": 70_553_706_496,
    "llama_3_1_405b": 405_853_388_800,
    "llama_3_3_70b": 70_553_706_496,
    "llama_3_2_1b": 1_235_814_400,
    "llama_3_2_3b": 3_212_749_824,
    "mistral_7b_v0_1": 7_241_732_096,
    "mistral_7b": 7_248_023_552,
    "mistral_large_2": 122_610_069_504,
    "mistral_nemo": 12_247_782_400,
    "mistral_small_3": 23_572_403_200,
    "phi_4": 14_659_507_200,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "mixtral_8x7b": 46_702_792_704,
    "mixtral_8x22b": 140_620_634_112,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "qwen3_next_80b_a3b": 79_674_391_296,  # without the MTP block
    "nemotron_3_nano_30b_a3b": 31_577_940_288,  # 31.6 B are published
    "qwen3_vl_235b_a22b": 235_093_634_560,  # without the vision encoder
    "qwen3_coder_480b_a35b": 480_154_875_392,
    "qwen3_coder_480b": 480_154_875_392,
    "arctic_embed_m": 108_891_648,  # 109M; BertModel has 109,482,240 with a pooler, which this one does not run
    "gemma_2_9b": 9_241_705_984,
    "gemma_2_27b": 27_227_128_320,
    "gemma_3_1b": 999_885_952,
    "gemma_3_4b": 4_300_079_472 - 419_816_304,
    "gemma_3_12b": 12_187_325_040 - 421_290_864,  # without the vision encoder and its projection
    "gemma_3_27b": 27_432_406_640 - 423_060_336,
    "deepseek_v2": 235_741_434_880,
    "deepseek_v3": 671_026_419_200,
    "deepseek_v3_1": 671_026_419_200,
    "deepseek_r1": 671_026_419_200,
    "llama_4_scout": 107_769_861_120,  # by the shapes of the config; with the vision encoder 109B are published
    "llama_4_maverick": 400_711_848_960,
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "kimi_k2": 1_026_408_232_448,
    "kimi_k2_5": 1_026_408_232_448,  # without the vision encoder
    "kimi_k2_6": 1_026_408_232_448,  # without the vision encoder
    "devstral_small": 23_572_403_200,
    "command_a": 111_057_580_032,  # 111B are published
    # As MTEB lists them (embeddings-benchmark/mteb, models of Qwen3-Embedding).
    "qwen3_embedding_0_6b": 595_776_512,
    "qwen3_embedding_4b": 4_021_774_336,
    "qwen3_embedding_8b": 7_567_295_488,
    # As llama.cpp counts the tensors: 228.69 B, of which 62 x 6912 are gains of norms over all heads;
    "minimax_m2": 228_689_764_864 - 62 * (6144 + 1024 - 2 * 128),
    "minimax_m2_5": 228_689_764_864 - 62 * (6144 + 1024 - 2 * 128),
    "minimax_m2_7": 228_689_764_864 - 62 * (6144 + 1024 - 2 * 128),
    # 358.34 B and 110.47 B with the MTP block and its copies of embedding and head, which leaves 106.85 B for Air.
    "glm_4_5": 352_797_829_024,
    "glm_4_7": 352_797_829_024,
    "glm_4_5_air": 106_852_251_264,
    # Those of the classes of transformers 5.24 with the sizes of the configs; language models without their MTP layers.
    "qwen3_5_27b": 26_895_998_464,
    "qwen3_5_35b_a3b": 34_660_610_688,
    "qwen3_5_122b_a10b": 122_111_526_912,
    "qwen3_5_397b_a17b": 396_346_350_336,
    "qwen3_vl_30b_a3b": 30_532_122_624,
    "qwen3_vl_32b": 32_762_123_264,
    "qwen3_vl_8b": 8_190_735_360,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    # with the indexer, of 9,371,904 and 13,959,424 in each layer
    "gemma_3n_e4b": 6_835_235_568,
    "gemma_4_31b": 30_697_345_280,
    "gemma_4_26b_a4b": 25_233_141_760 - 30 * 128,  # the scales of the gates are left out
    "gemma_4_e2b": 4_628_569_344,
    "gemma_4_e4b": 7_463_013_376,
    "glm_5": 743_180_209_920 + 78 * 9_371_904,
    "glm_5_1": 743_180_209_920 + 78 * 9_371_904,
    "glm_5_2": 743_180_209_920 + 21 * 9_371_904,
    "deepseek_v3_2": 671_026_419_200 + 61 * 13_959_424,
    "nemotron_3_super_120b_a12b": 120_668_707_840,
    "nemotron_3_ultra_550b_a55b": 549_308_993_536,
    "nemotron_h_56b": 56_324_350_464,
    "minimax_m1": 456_089_655_296,
    "ernie_4_5_21b_a3b": 21_825_437_888,
    "hunyuan_7b": 7_504_568_320,
    "internlm3_8b": 8_804_241_408,
    "jamba_v0_1": 51_570_323_328,
    "dbrx_132b": 131_596_523_520,
    "command_r": 34_980_831_232,
    "command_r7b": 8_028_033_024,
    "olmo_2_13b": 13_716_198_400,
    "starcoder2_15b": 15_957_889_024,
    "granite_3_1_2b": 2_533_531_648,
    "glm_4_9b_0414": 9_400_279_040,
    "phi_3_mini": 3_821_079_552,
    "gemma_7b": 8_537_680_896,
}

ACTIVE = {  # billions, as published, and whether the embedding counts
    "mixtral_8x7b": (12.9, True),
    "mixtral_8x22b": (39, True),
    "qwen3_30b_a3b": (3.3, True),
    "qwen3_235b_a22b": (22, True),
    "llama_4_scout": (17, True),
    "llama_4_maverick": (17, True),
    "gpt_oss_20b": (3.61, False),
    "gpt_oss_120b": (5.13, False),
    "nemotron_3_nano_30b_a3b": (3.6, True),
}

WHOLE = {  # billions of active parameters, rounded, and the matrices of the vocabulary that do not count
    "deepseek_v2": (21, 1),
    "deepseek_v3": (37, 1),  # DeepSeek-V3 Technical Report, 2024, section 4.2
    "kimi_k2": (32, 1),
    "minimax_m2": (10, 1),
    "qwen3_coder_480b": (35, 1),
    "glm_4_5": (32, 2),  # GLM-4.5, 2025, table 1
    "glm_4_5_air": (12, 2),
    "qwen3_5_35b_a3b": (3, 1),
    "qwen3_5_122b_a10b": (10, 0),
    "qwen3_5_397b_a17b": (17, 0),
    "qwen3_vl_30b_a3b": (3, 1),
    "glm_5": (40, 2),  # as GLM-4.5 counts
    "deepseek_v3_2": (37, 1),
    "nemotron_3_super_120b_a12b": (12, 1),
    "nemotron_3_ultra_550b_a55b": (55, 1),
    "ernie_4_5_21b_a3b": (3, 0),
    "jamba_v0_1": (12, 0),
    "dbrx_132b": (36, 0),
    "qwen3_next_80b_a3b": (3, 2),
}

FILES = [f"{folder}/{path.name}" for folder in FOLDERS.values() for path in sorted((CATALOG / folder).glob("*.plan"))]


def stems(kind: str) -> list[str]:
    return sorted(path.stem for path in (CATALOG / FOLDERS[kind]).glob("*.plan"))


def gpu(name: str) -> GpuSpec:
    spec = open_text("").spec("gpu", name)
    assert isinstance(spec, GpuSpec)
    return spec


WIDENING = (("fp4",), ("fp6", "fp8", "int8"), ("bf16", "fp16"), ("tf32",), ("fp32",))
"""Formats that matrix units multiply in, the fastest first."""

SLOW = {("b300_sxm", "int8"), ("gb300", "int8")}
"""Blackwell Ultra gave up tensor cores for int8."""


@pytest.mark.parametrize("name", sorted({*GPUS, *stems("gpu")}))
def test_a_gpu_has_a_source_and_figures(name: str) -> None:
    spec = gpu(name)
    vendor = vendor_of((name, *spec.bases))
    assert spec.source
    assert spec.memory > 1e9
    assert spec.bandwidth > 1e11
    assert all(peak > 1e12 for _, peak in spec.compute)
    assert dict(spec.compute).get("bf16", spec.peak("fp16")) == dict(spec.compute).get("fp16", spec.peak("bf16"))
    assert (spec.units is not None) == (vendor in ("AMD", "NVIDIA"))  # a fitted form is for GPUs with such units
    assert spec.units is None or 40 <= spec.units <= 400
    assert (spec.power is None) == (vendor in ("Google", "AWS"))  # who publish none
    assert spec.power is None or 70 <= spec.power <= 2000
    assert spec.price is None or (spec.price > 0 and spec.price_source)
    rates = [[r for dtype, r in spec.compute if dtype in some and (name, dtype) not in SLOW] for some in WIDENING]
    rates = [some for some in rates if some]
    assert all(min(narrow) >= max(wide) for narrow, wide in pairwise(rates)), rates


def test_only_the_formats_of_the_hardware_have_a_peak() -> None:
    lacking = {"v100": ("bf16", "fp8", "int8"), "t4": ("bf16", "fp8"), "a10g": ("fp8",), "mi250x": ("fp8", "tf32")}
    for name, formats in lacking.items():
        assert not {dtype for dtype, _ in gpu(name).compute} & set(formats), name
    for name in ("tpu_v5e", "tpu_v5p", "tpu_v6e"):
        assert [dtype for dtype, _ in gpu(name).compute] == ["int8", "bf16"]


@pytest.mark.parametrize("name", ["gaudi_2", "gaudi_3", "tpu_v5e", "tpu_v5p", "tpu_v6e", "tpu_v7", "trainium_2"])
def test_a_chip_of_another_maker_takes_nothing_from_kernels_of_nvidia_and_amd(name: str) -> None:
    home = next(n for n in catalog_names("node") if n.startswith(name))
    load = "workload { input = 100, output = 10, batch = 8 }"
    text = f"plan p {{ model = llama_3_1_8b, node = {home}, sharding {{ tp = 4 }}, {load} }}"
    text += "\nplan q = p with { engine = vllm }"
    alone, served = compile_text(text)
    assert alone.spec.calibration.name == UNMEASURED
    assert "otherwise" not in dict(alone.spec.calibration.assumed)
    assert {op.origin for phase in (alone.estimate().prefill, alone.estimate().decode) for op in phase.ops} == {GENERIC}
    assert "N469" in {d.code for d in served.said}
    for metric in ("ttft", "tpot"):  # no narrower than the round figures
        low, high = served.spec.engine_band(metric) or (1.0, 1.0)
        assert low <= 0.5
        assert high >= 2.5


@pytest.mark.parametrize("name", stems("gpu"))
def test_a_gpu_has_the_memory_that_it_reports_and_not_that_of_its_name(name: str) -> None:
    spec = gpu(name)
    assumed = dict(spec.assumed)
    for field, size in (("memory", spec.memory), ("memory_total", spec.memory_total)):
        assert size is not None
        assert field in assumed or re.search(rf"\([^)]*\b{field}\b[^)]*\)", spec.source), field
        assert abs(size / 1e9 - round(size / 1e9)) > 1e-3, f"{field} is a whole number of decimal gigabytes"
    assert spec.memory <= spec.reported_memory < 1.03 * spec.memory


REPORTED = {  # MiB that the driver reports, GiB that CUDA or HIP shows, how far the latter differs between drivers
    "h100_sxm": (81_559, 79.19, 0.03),  # modal-client PR 2797; vLLM logs in llm-d-planner, vLLM PR 10511
    "h200_sxm": (140.4 * 1024, 139.8, 0.02),  # InferenceX issue 2128; vLLM issue 34553
    "b200": (None, 178.35, 0.0),  # torchao PR 4002
    "b300_sxm": (275_040, None, 0.0),  # systems/*.yaml of aiconfigurator, as the next two
    "gb200": (189_471, 184.31, 0.0),  # and vLLM issue 43951
    "gb300": (284_208, None, 0.0),
    "a100_80": (81_920, 79.15, 0.0),  # modal-client PR 2797; torchrec PR 3580
    "a100_40": (40_960, 39.5, 0.0),  # modal-client PR 2797; CoSeR issue 10
    "h100_nvl": (None, 93.02, 0.0),  # vLLM issue 16712
    "l40s": (46_068, 44.4, 0.0),  # modal-client PR 2797; vLLM issue 23230
    "rtx_3090": (24_576, 23.58, 0.03),  # club-3090 issue 58, which has 23.56; vLLM PR 14447
    "rtx_4090": (24_564, 23.52, 0.0),  # vLLM issue 7553; SoulX-FlashTalk issue 5
    "rtx_pro_6000": (97_887, None, 0.0),  # systems/*.yaml of aiconfigurator
    "mi300x": (196_592, 191.984, 0.005),  # ROCm issue 4414: 201,310,208 KiB
    "mi325x": (None, 255.98, 0.0),  # vLLM issue 41962
    "mi355x": (None, 288.0, 0.03),  # InferenceX PR 2522
}


@pytest.mark.parametrize("name", REPORTED)
def test_memory_is_as_logs_print_it(name: str) -> None:
    spec = gpu(name)
    total, seen, off = REPORTED[name]
    assert spec.memory_total is not None
    assert total is None or spec.memory_total / 2**20 == pytest.approx(total, abs=2)
    assert seen is None or spec.memory / 2**30 == pytest.approx(seen, abs=off + 0.002)


def test_a_gpu_with_other_memory_does_not_keep_what_the_driver_reported() -> None:
    text = """
    gpu smaller = h100_sxm with { memory = 40 GB }
    gpu both = h100_sxm with { memory = 40 GB, memory_total = 41 GB }
    gpu again = both with { bandwidth = 2 TB/s }
    gpu decimal { memory = 80 GB, bandwidth = 2 TB/s, compute { bf16 = 300 TFLOP/s } }
    """
    module = open_text(text)
    found = {name: module.spec("gpu", name) for name in ("smaller", "both", "again", "decimal")}
    sizes = {name: (g.memory, g.memory_total) for name, g in found.items() if isinstance(g, GpuSpec)}
    assert sizes == {"smaller": (40e9, None), "both": (40e9, 41e9), "again": (40e9, 41e9), "decimal": (80e9, None)}


@pytest.mark.parametrize("name", UNITS)
def test_units_are_those_of_the_vendor(name: str) -> None:
    assert gpu(name).units == UNITS[name]


def test_dense_peaks_per_unit_and_clock_are_alike_within_a_family() -> None:
    """A peak with sparsity by mistake would be twice as high."""
    families = (("h100_sxm", "h100_pcie", "h100_nvl", "h200_nvl", "gh200"), ("b200", "b300_sxm", "gb200", "gb300"))
    for family in (*families, ("mi300x", "mi308x", "mi325x"), ("mi350x", "mi355x"), ("a6000", "a40")):
        rates = [(gpu(name).peak("bf16") or 0) / (gpu(name).units or 1) for name in family]
        assert max(rates) < 1.25 * min(rates), family


@pytest.mark.parametrize("name", stems("model"))
def test_a_model_has_as_many_parameters_as_published(name: str) -> None:
    spec = open_text("").spec("model", name)
    assert isinstance(spec, ModelSpec)
    assert parameters(build_model(spec, "prefill", spec.activations)) == PARAMETERS[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_a_model_has_as_many_active_parameters_as_published(name: str) -> None:
    spec = open_text("").spec("model", name)
    assert isinstance(spec, ModelSpec)
    published, embedding = ACTIVE[name]
    counted = active_parameters(build_model(spec, "prefill", spec.activations))
    counted -= 0 if embedding else spec.size("vocab") * spec.size("hidden")
    assert counted / 1e9 == pytest.approx(published, abs=0.06 if published < 10 else 0.25)


@pytest.mark.parametrize("name", WHOLE)
def test_active_parameters_without_the_vocabulary_round_to_the_published_number(name: str) -> None:
    spec = open_text("").spec("model", name)
    assert isinstance(spec, ModelSpec)
    published, left_out = WHOLE[name]
    counted = active_parameters(build_model(spec, "prefill", spec.activations))
    assert round((counted - left_out * spec.size("vocab") * spec.size("hidden")) / 1e9) == published


def test_deepseek_v3_caches_576_elements_a_layer() -> None:
    """DeepSeek-V2, 2024, table 1."""
    spec = open_text("").spec("model", "deepseek_v3")
    assert isinstance(spec, ModelSpec)
    assert kv_bytes_per_token(build_model(spec, "prefill", spec.activations)) == 61 * (512 + 64) * 2


def test_deepseek_v3_2_caches_index_keys_of_132_bytes_beside_the_latents() -> None:
    """vLLM, model_executor/models/deepseek_v2.py, `Indexer`: 128 elements of fp8, and a scale of 4 bytes."""
    spec = open_text("").spec("model", "deepseek_v3_2")
    assert isinstance(spec, ModelSpec)
    assert kv_bytes_per_token(build_model(spec, "prefill", spec.activations)) == 61 * ((512 + 64) * 2 + 132)


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("gemma_2_9b", 21),
        ("gemma_2_27b", 23),
        ("gemma_3_1b", 4),
        ("gemma_3_4b", 5),
        ("gemma_3_12b", 8),
        ("gemma_3_27b", 10),
    ],
)
def test_gemma_sees_all_tokens_on_some_layers(name: str, wide: int) -> None:
    spec = open_text("").spec("model", name)
    assert isinstance(spec, ModelSpec)
    layers = {b.name: b.every.select(b.layers) for b in spec.blocks}
    assert len(layers["global"]) == wide
    assert layers["local"][0] == 0
    assert sorted(layers["global"] + layers["local"]) == list(range(spec.layers))


@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - ACTIVE.keys()))
def test_all_parameters_of_a_dense_model_are_active(name: str) -> None:
    spec = open_text("").spec("model", name)
    assert isinstance(spec, ModelSpec)
    program = build_model(spec, "prefill", spec.activations)
    if not program.imbalance:
        assert active_parameters(program) == parameters(program)


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_in_canonical_form(file: str) -> None:
    text = (CATALOG / file).read_text("utf-8")
    assert format_text(text, file) == text
    assert max(map(len, text.splitlines())) <= 120 or file.startswith("calibrations/")


@pytest.mark.parametrize("file", FILES)
def test_a_file_resolves_without_a_finding(file: str) -> None:
    module = open_text((CATALOG / file).read_text("utf-8"), file)
    module.check()
    assert module.diagnostics == []


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_has_nodes_of_8_4_2_and_1(name: str) -> None:
    module = open_text("")
    for count in (8, 4, 2, 1):
        spec = module.spec("node", f"{name}_{count}")
        assert isinstance(spec, NodeSpec)
        assert spec.count == count
        assert spec.source
        own = gpu(name)
        assert (spec.gpu.memory, spec.gpu.bandwidth, spec.gpu.compute) == (own.memory, own.bandwidth, own.compute)


def test_every_machine_has_a_plan() -> None:
    """Each node has its figures, and each kind of node compiles a plan."""
    module, alias = open_text(""), catalog.aliases("node")
    seen: dict[tuple[str, str], NodeSpec] = {}
    for name in catalog_names("node"):
        spec = module.spec("node", name)
        assert isinstance(spec, NodeSpec), name
        assert spec.source, name
        assert spec.price is None or (spec.price > 0 and spec.price_source), name
        assert spec.link.topology != "torus" or prod(spec.link.dims) == spec.count, name
        if name not in alias:
            seen.setdefault((spec.gpu.name, str(spec.link)), spec)
    plans = [
        f"plan p{at} {{ model = llama_3_2_1b with {{ weights = {form}, activations = {form} }}, node = {spec.name}\n"
        f"  sharding {{ tp = {min(spec.count, 8)} }}, workload {{ input = 100, output = 10 }} }}"
        for at, spec in enumerate(seen.values())
        if (form := "bf16" if spec.gpu.peak("bf16") else "fp16")
    ]
    made = compile_text("\n".join(plans))
    assert len(made) == len(plans) > 80
    assert all(plan.estimate().fits for plan in made)


def test_a_cloud_machine_is_called_as_its_cloud_calls_it() -> None:
    machines = {
        "p5.48xlarge": ("aws_p5_48xlarge", "h100_sxm", 8),
        "p4de.24xlarge": ("aws_p4de_24xlarge", "a100_80", 8),
        "g5.xlarge": ("aws_g5_xlarge", "a10g", 1),
        "trn2.48xlarge": ("aws_trn2_48xlarge", "trainium_2", 16),
        "a3-megagpu-8g": ("gcp_a3_megagpu_8g", "h100_sxm", 8),
        "ct6e-standard-8t": ("gcp_ct6e_standard_8t", "tpu_v6e", 8),
        "Standard_ND96isr_H200_v5": ("azure_nd96isr_h200_v5", "h200_sxm", 8),
        "ND MI300X v5": ("azure_nd_mi300x_v5", "mi300x", 8),
    }
    for cloud, (name, of, count) in machines.items():
        spec = open_text("").spec("node", name)
        assert isinstance(spec, NodeSpec)
        assert (spec.gpu.name, spec.count) == (of, count)
        assert catalog_name("node", cloud) == name
