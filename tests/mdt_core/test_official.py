"""Published weights: read safely, recognised, and loaded strictly and without a copy.

The files are made here, by the rules of the parity data: every entry is a function of its key's name, so a
tensor that lands under the wrong key is seen.
"""

import argparse
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdt_core import MDT, DiT, MDTv2, create_model
from mdt_core.weights.official import CheckpointError, detect, load_official

TINY = {"hidden_size": 32, "depth": 6, "num_heads": 4, "num_classes": 5, "sample_size": 8}
MODELS = {
    "v1": (MDT, {**TINY, "decoder_layers": 2}),
    "v2": (MDTv2, {**TINY, "decoder_layers": 2}),
    "v2, odd sizes": (MDTv2, {**TINY, "depth": 7, "decoder_layers": 3, "patch_size": 4, "in_channels": 8}),
    "dit": (DiT, {**TINY, "hidden_size": 384, "depth": 2, "num_heads": 6, "decoder_layers": 0}),
}


def published(model_class, config) -> dict[str, torch.Tensor]:
    """A state dict as the authors' code would save it, each float entry drawn from its key."""
    state = model_class(**config).state_dict()
    draw = lambda key, shape: torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))  # noqa: E731
    return {key: draw(key, value.shape) if value.is_floating_point() else value for key, value in state.items()}


@pytest.fixture
def v2(tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The path of a tiny v2 file that is not written yet, and its state dict."""
    return tmp_path / "v2.pt", published(*MODELS["v2"])


# --- what is read is what was written -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_arrives_under_its_key(tmp_path, name, suffix):
    """Catches a swapped or dropped key, a class or size read wrongly, and weights left on the meta device."""
    model_class, config = MODELS[name]
    state = published(model_class, config)
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)

    model = load_official(path)

    assert type(model) is model_class and not model.training
    assert {key: model.config[key] for key in config} == config
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_the_loaded_model_computes_what_the_saved_one_did(v2):
    path, state = v2
    model_class, config = MODELS["v2"]
    original = model_class(**config).eval()
    original.load_state_dict(state)
    torch.save(state, path)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 5])
    with torch.no_grad():
        assert torch.equal(load_official(path)(*inputs), original(*inputs))


def mapped_ranges(path: Path) -> list[range]:
    """The address ranges of this process that are a file's own bytes."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(f" {path}")]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_stay_in_the_mapped_file(v2, suffix):
    """Catches a load that copies: a 3 GB file would then take 6 GB."""
    path, state = v2[0].with_suffix(suffix), v2[1]
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = load_official(path)
    ranges = mapped_ranges(path)
    copied = [name for name, t in model.state_dict().items() if not any(t.data_ptr() in r for r in ranges)]
    assert copied == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"ema": state, "model": {}, "opt": {"state": {}, "param_groups": []}},
        lambda state: {"model": state},
        lambda state: {"model": state, "ema": {}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"ema": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"ema": state, "args": argparse.Namespace(model="MDTv2-S/2")},
    ],
    ids=["ema", "model", "model and an empty ema", "module.", "ema and module.", "with the script's arguments"],
)
def test_wrappings_of_training_scripts(v2, wrap):
    path, state = v2
    torch.save(wrap(state), path)
    assert torch.equal(load_official(path).pos_embed, state["pos_embed"])


def test_old_files_and_half_precision_load_as_float32(v2):
    """Catches mixed dtypes in one model, and memory mapping asked of a file from before the zip format."""
    path, state = v2
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(half, path, _use_new_zipfile_serialization=False)
    model = load_official(path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.mask_token, state["mask_token"].half().float())


# --- sizes and counts ---------------------------------------------------------------------------------------

# Parameters of the published configurations (decoder 4 for v2), without buffers.
PARAMETERS = {
    "DiT": {"S": 32_963_360, "B": 130_512_416, "L": 458_102_816, "XL": 675_129_632},
    "MDT": {"S": 35_797_208, "B": 141_488_528, "L": 477_641_312, "XL": 699_778_144},
    "MDTv2": {"S": 38_159_576, "B": 150_931_856, "L": 507_015_776, "XL": 742_263_904},
}


@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
@pytest.mark.parametrize("version", PARAMETERS)
def test_parameter_counts_and_detection_of_the_published_sizes(version, size):
    """Catches a layer more or less, a wider one, and a size that `detect` takes for another."""
    decoder_layers = {"DiT": None, "MDT": 2, "MDTv2": 4}[version]
    with torch.device("meta"):
        model = create_model(f"{version}-{size}/2", decoder_layers=decoder_layers)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[version][size]
    model_class, config = detect(model.state_dict())
    assert model_class is type(model)
    assert {key: model.config[key] for key in config} == config


def test_decoder_layers_of_v1_are_a_choice_and_of_v2_a_fact(tmp_path, v2):
    path, state = v2
    torch.save(state, path)
    assert load_official(path, decoder_layers=2).config.decoder_layers == 2
    with pytest.raises(CheckpointError, match="has 2 decoder blocks, not 4"):
        load_official(path, decoder_layers=4)
    torch.save(published(*MODELS["v1"]), tmp_path / "v1.pt")
    assert load_official(tmp_path / "v1.pt", decoder_layers=4).config.decoder_layers == 4
    torch.save(published(*MODELS["dit"]), tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match="no decoder blocks"):
        load_official(tmp_path / "dit.pt", decoder_layers=2)


# --- files that are refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["pos_embed", "mask_token", "x_embedder.proj.weight", "de_blocks.1.skip_linear.bias"])
def test_a_missing_key_is_named(v2, key):
    path, state = v2
    torch.save({k: v for k, v in state.items() if k != key}, path)
    with pytest.raises(CheckpointError, match=key):
        load_official(path)


def test_an_extra_key_is_named(v2):
    path, state = v2
    torch.save({**state, "en_inblocks.0.attn.q_norm.weight": torch.ones(8)}, path)
    with pytest.raises(CheckpointError, match=r"extra: en_inblocks.0.attn.q_norm.weight$"):
        load_official(path)


@pytest.mark.parametrize("key", ["pos_embed", "mask_token", "en_inblocks.0.attn.qkv.weight", "final_layer.linear.bias"])
def test_a_misshapen_key_alone_is_named(v2, key):
    """Catches a size that is read off one tensor: all the others would be called wrong instead of it."""
    path, state = v2
    torch.save({**state, key: torch.cat([state[key], state[key]], dim=-1)}, path)
    with pytest.raises(CheckpointError, match=rf"misshapen: {key} \[[\d, ]+\] instead of \[[\d, ]+\]$"):
        load_official(path)


def test_a_lost_block_is_named(v2):
    path, state = v2
    torch.save({k: v for k, v in state.items() if not k.startswith("en_outblocks.1.")}, path)
    with pytest.raises(CheckpointError, match=r"missing: en_outblocks.1.*and \d+ more"):
        load_official(path)


class Malicious:
    def __init__(self, evidence: Path):
        self.evidence = evidence

    def __reduce__(self):
        return Path.touch, (self.evidence,)


def test_code_in_a_pickle_does_not_run(v2, tmp_path):
    path, state = v2
    evidence = tmp_path / "it ran"
    for write in (
        lambda content: torch.save(content, path),
        lambda content: path.write_bytes(pickle.dumps(content, protocol=2)),
    ):
        write({**state, "pos_embed": Malicious(evidence)})
        with pytest.raises(CheckpointError, match="carrying code"):
            load_official(path)
    assert not evidence.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "text", "header"])
def test_damaged_files_end_in_a_sentence(v2, suffix, damage):
    path, state = v2[0].with_suffix(suffix), v2[1]
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut off": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"<!DOCTYPE html> 404",
            "header": b"\xff" * 64 + whole[64:],
        }[damage]
    )
    with pytest.raises(CheckpointError, match=str(path)):
        load_official(path)


@pytest.mark.parametrize(
    "foreign",
    [
        {"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(10)},
        {"pos_embed": torch.zeros(1, 197, 192), "blocks.0.attn.qkv.weight": torch.zeros(576, 192)},
        {},
        {"x_embedder.proj.weight": torch.zeros(0, 4, 2, 2)},
        {"state": [1, 2, 3]},
        {"ema": {"decay": 0.9999}},
        [torch.zeros(2)],
        {0: torch.zeros(2)},
    ],
    ids=["resnet", "vit", "nothing", "no elements", "list", "no tensors", "no dict", "numbered"],
)
def test_foreign_checkpoints_end_in_a_sentence(tmp_path, foreign):
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=r"no DiT, MDT or MDTv2|holds no state dict"):
        load_official(path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_the_names_of_wrappers_are_left_out(v2, prefix):
    """Catches a model that was compiled, or compiled and copied to many GPUs, taken for another."""
    path, state = v2
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, path)
    assert torch.equal(load_official(path).pos_embed, state["pos_embed"])


def test_a_position_index_out_of_range_is_made_anew(v2):
    """Catches a model that reads beyond its bias table, or one token's bias for another's."""
    path, state = v2
    torch.save({key: value + 1000 if key.endswith("_index") else value for key, value in state.items()}, path)
    loaded = load_official(path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda state: {"y_embedder.embedding_table.weight": torch.zeros(1000, 32)}, "without the null class"),
        (lambda state: {"pos_embed": state["pos_embed"].to("meta")}, r"not stored number by number .*: pos_embed"),
        (lambda state: {"mask_token": state["mask_token"].to_sparse()}, "not stored number by number .*: mask_token"),
        (
            lambda state: {"y_embedder.embedding_table.weight": torch.zeros(1).expand(10**9, 32)},
            "not stored number by number .*: y_embedder",
        ),
        (lambda state: {f"en_inblocks.{i}.x": torch.zeros(0) for i in range(2000)}, "depth 4002.* can be built"),
    ],
    ids=["no null class", "meta", "sparse", "stride 0", "many blocks"],
)
def test_a_file_that_asks_for_more_than_it_holds_ends_in_a_sentence(v2, harm, said):
    """Catches minutes, or memory beyond the file's, for a file that is no model; and one class read as no class."""
    path, state = v2
    torch.save(state | harm(state), path)
    with pytest.raises(CheckpointError, match=said):
        load_official(path)


def test_a_zip_file_that_grows_is_refused(v2):
    path, state = v2
    torch.save(state, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/999", bytes(10**7))
    with pytest.raises(CheckpointError, match="its parts are larger than the file"):
        load_official(path)


@pytest.mark.parametrize("sizes", [{"depth": 20_000}, {"sample_size": 1024}])
def test_a_configuration_too_large_is_refused_at_once(sizes):
    """Catches a folder's few bytes that take minutes, or all memory."""
    with pytest.raises(ValueError, match="can be built"):
        MDTv2(**TINY | {"decoder_layers": 2} | sizes)


def test_a_dit_of_unknown_width_and_a_missing_file(tmp_path):
    torch.save(published(DiT, TINY), tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match="a DiT of width 32: the number of heads is known for"):
        load_official(tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_official(tmp_path / "nowhere.pt")
