"""Files whole or absent, checkpoints exact or refused, networks handed from stage to stage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs
from tiny import same_tensors, snapshot, tiny_config, tiny_discriminator, tiny_translator
from torch import nn

from rgcluster.base.checkpoint.tree import load_module, load_tree, network_digest, save_tree
from rgcluster.base.rundir import enter, stage_directory
from rgcluster.base.storage import Location, digest_bytes, digest_json
from rgcluster.errors import (
    CheckpointError,
    DataError,
    RGClusterError,
    StorageError,
    StoreMismatch,
    UserError,
    root_cause,
)
from rgcluster.model.handover import (
    encoder_digests,
    load_discriminator,
    load_guided,
    load_retrieval,
    load_translator,
    networks_digest,
    save_networks,
)
from rgcluster.model.retrieval import JointEncoder

# --- locations ---


@pytest.fixture
def here(tmp_path: Path) -> Location:
    return Location(tmp_path)


def test_write_and_read(here: Location) -> None:
    file = here / "a" / "b" / "c.bin"
    assert not file.exists() and file.size() == 0
    file.write_bytes(b"\x00\xff")
    assert (file.read_bytes(), file.size(), file.name, file.is_file()) == (b"\x00\xff", 2, "c.bin", True)
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new" and (here / "a" / "b").names() == ["c.bin"]
    (here / "t").write_text("Grüße\n")
    assert (here / "t").read_text() == "Grüße\n"
    value = {"z": [1, 2.5, None], "a": {"b": True}}
    (here / "j.json").write_json(value)
    assert (here / "j.json").read_json() == value


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failing_write_leaves_nothing(here: Location, before: bytes | None) -> None:
    file = here / "file"
    if before is not None:
        file.write_bytes(before)
    with pytest.raises(TypeError):
        file.write_bytes(["no bytes"])  # type: ignore[arg-type]
    assert here.names() == ([] if before is None else ["file"])
    assert before is None or file.read_bytes() == before


def test_a_failing_rename_leaves_nothing(here: Location) -> None:
    (here / "file" / "below").write_bytes(b"a directory stands where the file should go")
    with pytest.raises(OSError):
        (here / "file").write_bytes(b"content")
    assert here.names() == ["file"] and (here / "file").names() == ["below"]


def test_an_interrupt_leaves_nothing(here: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    file = here / "file"

    class Interrupted:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def move(self, *_: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(file, "_fs", Interrupted(file._fs))
    with pytest.raises(KeyboardInterrupt):
        file.write_bytes(b"content")
    assert here.names() == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1} x', b"\xff\xfe"])
def test_bad_json_is_a_data_error_that_names_the_file(here: Location, content: bytes) -> None:
    (here / "bad.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        (here / "bad.json").read_json()
    message = str(caught.value)
    assert str(here / "bad.json") in message and "remove it" in message and "\n" not in message


def test_parents_end_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    above = Location("/a/b").parent.parent
    assert (above.path, above.parent.path, (above / "a").path) == ("/", "/", "/a")
    assert Location("s3://bucket/a?endpoint_override=127.0.0.1:1").parent.path == "bucket"

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(
        Location, "write_bytes", refuse
    )  # what happens below the root to anybody but its owner
    with pytest.raises(PermissionError):
        (Location("/no-such-directory") / "lease" / "1").create(b"")


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, here: Location, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A directory of this disk, and one that only pyarrow reaches, with a TMPDIR beside it."""
    drafts = here.local() / "drafts"
    drafts.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(drafts))
    found = here / "place"
    if request.param == "remote":
        found._fs, found.path = fs.SubTreeFileSystem(here.path, fs.LocalFileSystem()), "place"
    return found


def test_a_local_draft_becomes_the_file(place: Location, here: Location) -> None:
    file = place / "a" / "file"
    with file.local_draft() as draft:
        draft.write_bytes(b"content")
        assert not file.exists()
    assert file.read_bytes() == b"content" and (place / "a").names() == ["file"]
    assert file.digest() == digest_bytes(b"content") and not (here / "drafts").names()


def test_a_local_draft_that_fails_leaves_the_file(place: Location, here: Location) -> None:
    file = place / "file"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), file.local_draft() as draft:
        draft.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(
        StorageError, match=r"no room to write it \(No space left .*run the same command again"
    ):
        with file.local_draft():
            raise OSError(errno.ENOSPC, "full")
    assert file.read_bytes() == b"old" and place.names() == ["file"] and not (here / "drafts").names()


@pytest.mark.parametrize("content", ["[]", "null", '"depends"', '{"finished": true}'])
def test_a_record_that_is_none_is_a_data_error(here: Location, content: str) -> None:
    file = here / "stage.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"stage.json: not an object with depends, finished.*; remove it"):
        file.read_record("depends", "finished")
    with pytest.raises(
        DataError, match=r"stage.json: not an object with depends, finished, seconds; remove it"
    ):
        enter(here, {})
    (here / "a" / "elsewhere.json").write_text(content)
    with pytest.raises(DataError, match=r"elsewhere.json: not an object with at; remove it"):
        stage_directory(here, "a")


def test_names_are_sorted_and_removing_is_for_everything(here: Location) -> None:
    for name in ("b", "a", "c/d"):
        (here / name).write_bytes(b"")
    assert here.names() == ["a", "b", "c"]
    assert (here / "missing").names() == []
    for name in ("a", "c", "missing"):
        (here / name).remove()
    assert here.names() == ["b"]


FLICKERING = """
import os, sys
while True:
    os.makedirs(f"{sys.argv[1]}/a/b", exist_ok=True)
    for name in ("/a/b", "/a", ""):
        os.rmdir(sys.argv[1] + name)
"""


def test_a_directory_that_others_make_and_remove_is_listed(here: Location) -> None:
    place = here / "versions"
    other = subprocess.Popen([sys.executable, "-c", FLICKERING, place.path])
    try:
        end = time.monotonic() + 2
        seen = set()
        while time.monotonic() < end:
            for name in place.names():
                seen.add(name)
            assert place.sizes() == {} and place.paths_below() == []
            place.modified_below()
        assert other.poll() is None and seen <= {"a"}
    finally:
        other.kill()
        other.wait()


def test_paths_are_made_absolute_and_uris_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location("x/../y").path == str(tmp_path / "y")
    assert Location(f"file://{tmp_path}/y").local() == tmp_path / "y"
    assert Location(Location(tmp_path) / "y").path == str(tmp_path / "y")
    assert Location("~").path == os.path.expanduser("~")
    assert str(Location(tmp_path)) == str(tmp_path)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.booleans(), max_size=5))
def test_digest_of_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(value.items())))


def test_digests_differ() -> None:
    assert digest_bytes(b"a", b"b") == digest_bytes(b"ab") != digest_bytes(b"ba")
    assert digest_json({"a": 1}) != digest_json({"a": 2}) != digest_json({"b": 2})


# --- trees ---

TENSORS = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 50).to(
        dtype
    ),
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
    ),
    seed=st.integers(0, 1000),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=6)
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        TENSORS | PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return same and torch.equal(
            a.contiguous().view(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@given(tree=TREES)
@settings(deadline=None, max_examples=40)
def test_any_tree_comes_back_bit_for_bit(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    location = Location(tmp_path_factory.mktemp("tree"))
    save_tree(location, tree, {"step": 3})
    found, manifest = load_tree(location)
    assert equal(tree, found)
    assert manifest["step"] == 3


def test_channels_last_and_shared_tensors(here: Location) -> None:
    image = torch.randn(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    view = torch.arange(6.0).view(2, 3).t()
    save_tree(
        here, {"image": image, "view": view, "again": {"image": image}, "nan": torch.tensor(float("nan"))}, {}
    )
    tree, _ = load_tree(here)
    assert torch.equal(tree["image"], image) and torch.equal(tree["again"]["image"], image)
    assert torch.equal(tree["view"], view) and tree["nan"].isnan()
    assert tree["image"].is_contiguous()


def test_loaded_tensors_are_ones_own(here: Location) -> None:
    weight = torch.zeros(3)
    save_tree(here, {"weight": weight}, {})
    tree, _ = load_tree(here)
    tree["weight"].add_(1)
    assert torch.equal(load_tree(here)[0]["weight"], weight) and torch.equal(weight, torch.zeros(3))


def checkpoint_fault(location: Location) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_tree(location)
    message = str(caught.value)
    assert "\n" not in message and str(location) in message
    return message


def test_no_checkpoint(here: Location) -> None:
    assert "no checkpoint" in checkpoint_fault(here / "nowhere")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_damaged_tensors_are_refused_by_name(here: Location, damage: str) -> None:
    save_tree(here, {"weight": torch.randn(10)}, {})
    file = here / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "missing":
        file.remove()
    else:
        file.write_bytes({"truncated": bytes(content[:-3]), "flipped": bytes(content), "empty": b""}[damage])
    assert "tensors.safetensors" in checkpoint_fault(here)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"schema": 99}', b"{}", b'{"schema": 1}', b'{"schema": 1, "tree": {}}'],
)
def test_damaged_manifest_is_refused_by_name(here: Location, content: bytes) -> None:
    save_tree(here, {"weight": torch.randn(10)}, {})
    (here / "manifest.json").write_bytes(content)
    checkpoint_fault(here)


@pytest.mark.parametrize(
    "tree", [None, [], {"weight": {"__tensor__": "/other"}}, {"weight": {"__tensor__": []}}]
)
def test_a_manifest_of_other_tensors_is_refused_by_name(here: Location, tree: Any) -> None:
    manifest = save_tree(here, {"weight": torch.randn(10)}, {})
    (here / "manifest.json").write_json({**manifest, "tree": tree})
    assert "manifest.json: damaged; restore it or train again" in checkpoint_fault(here)


# --- modules ---


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def load_fault(state: dict[str, torch.Tensor]) -> str:
    network = net()
    before = snapshot(network)
    with pytest.raises(CheckpointError) as caught:
        load_module(network, state, "run/model")
    assert same_tensors(snapshot(network), before)
    message = str(caught.value)
    assert message.startswith("run/model: ") and "\n" not in message
    return message


def test_load_module_takes_every_key() -> None:
    network, state = net(), {name: value + 1 for name, value in net().state_dict().items()}
    load_module(network, state, "here")
    assert same_tensors(dict(network.state_dict()), state)


def test_missing_unknown_and_odd_shaped_keys_are_one_line() -> None:
    state = dict(net().state_dict())
    assert "lacks '0.bias'" in load_fault({name: value for name, value in state.items() if name != "0.bias"})
    assert "unknown '2.weight'" in load_fault({**state, "2.weight": torch.zeros(1)})
    message = load_fault({**state, "0.weight": torch.zeros(3, 4)})
    assert "0.weight is [3, 4]" in message and "[3, 2]" in message


def test_network_digest_follows_names_and_bits() -> None:
    network = net()
    digest = network_digest(network)
    assert digest == network_digest(net())
    assert network_digest(net().to(memory_format=torch.channels_last)) == digest
    with torch.no_grad():
        network[0].weight[0, 0] += 1e-6  # type: ignore[index]
    assert network_digest(network) != digest


def test_network_digest_does_not_depend_on_the_memory_layout() -> None:
    config = tiny_config()
    plain = network_digest(tiny_discriminator(config))
    assert network_digest(tiny_discriminator(config).to(memory_format=torch.channels_last)) == plain  # type: ignore[call-overload]


# --- hand-over ---


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """What the three stages of a tiny run leave."""
    run, config = Location(tmp_path_factory.mktemp("run")), tiny_config()
    translator, discriminator = tiny_translator(config), tiny_discriminator(config)
    save_networks(
        run / "1", {"translator": translator, "discriminator": discriminator}, {"kind": "translation"}
    )
    networks = {"easy": JointEncoder(config), "all": JointEncoder(config)}
    save_networks(run / "2", networks, {"trained_against": encoder_digests(translator)})
    variants = {"gmm-unit-continued": translator, "rg-unit": tiny_translator(config, guided=True)}
    save_networks(run / "3", variants, {"trained_against": encoder_digests(translator)})
    return run


def test_networks_come_back_bit_for_bit_and_frozen(stages: Location) -> None:
    config = tiny_config()
    translator = load_translator(stages / "1", config)
    assert same_tensors(translator.state_dict(), tiny_translator(config).state_dict())
    assert not translator.training and not any(p.requires_grad for p in translator.parameters())
    discriminator = load_discriminator(stages / "1", config)
    assert same_tensors(discriminator.state_dict(), tiny_discriminator(config).state_dict())
    assert all(p.requires_grad for p in discriminator.parameters())  # stage 3 trains it on
    retrieval = load_retrieval(stages / "2", config, translator)
    assert list(retrieval) == ["easy", "all"] and not retrieval["all"].training
    assert load_guided(stages / "3", config, "rg-unit").fusion is not None
    assert load_guided(stages / "3", config, "gmm-unit-continued").fusion is None


def test_retrieval_trained_against_another_translator_is_refused(stages: Location) -> None:
    config = tiny_config()
    translator = load_translator(stages / "1", config)
    with torch.no_grad():
        translator.style_encoder.mean.bias[0] += 1e-3
    with pytest.raises(
        CheckpointError, match=r"trained against another style_encoder .*train this stage again$"
    ):
        load_retrieval(stages / "2", config, translator)


def test_a_changed_generator_does_not_matter_to_retrieval(stages: Location) -> None:
    config = tiny_config()
    translator = load_translator(stages / "1", config)
    with torch.no_grad():
        translator.generator.heads.bias[0] += 1
    assert load_retrieval(stages / "2", config, translator)


def test_networks_of_another_configuration_are_refused(stages: Location) -> None:
    with pytest.raises(CheckpointError, match=r"\(translator\): .* the configuration needs"):
        load_translator(stages / "1", tiny_config("model.width=16"))
    with pytest.raises(CheckpointError, match="another architecture"):
        load_translator(stages / "1", tiny_config("model.num_residual_blocks=2"))
    with pytest.raises(CheckpointError, match=r"fusion\.inner\.weight"):
        load_guided(stages / "3", tiny_config("guidance.retrieval_count=1"), "rg-unit")
    with pytest.raises(CheckpointError, match="holds no 'rg-unit-random', only gmm-unit-continued, rg-unit"):
        load_guided(stages / "3", tiny_config(), "rg-unit-random")


def test_digest_of_a_hand_over_follows_its_weights(stages: Location, here: Location) -> None:
    config = tiny_config()
    save_networks(here / "same", {"discriminator": tiny_discriminator(config)}, {})
    save_networks(here / "other", {"discriminator": tiny_discriminator(config, seed=5)}, {})
    assert networks_digest(here / "same") != networks_digest(here / "other")
    with pytest.raises(CheckpointError):
        networks_digest(here / "none")


# --- errors ---


def test_every_error_is_of_the_tree() -> None:
    assert issubclass(StoreMismatch, CheckpointError) and issubclass(CheckpointError, UserError)
    assert (RGClusterError.exit_status, UserError.exit_status, StoreMismatch.exit_status) == (1, 2, 2)


def test_root_cause_digs_through_what_ray_wraps() -> None:
    cause = DataError("the cause")

    class Worker(Exception):
        worker_failures: dict[int, BaseException]

    class Task(Exception):
        cause: BaseException

    task = Task("traceback")
    task.cause = cause
    group = Worker("group")
    group.worker_failures = {0: RuntimeError("another"), 1: task}
    assert root_cause(group) is cause
    try:
        try:
            raise cause
        except DataError as error:
            raise RuntimeError("outside") from error
    except RuntimeError as outside:
        assert root_cause(outside) is cause
    plain = ValueError("not ours")
    plain.__context__ = plain
    assert root_cause(plain) is plain

    class RaysOwn(Exception):
        worker_failures: dict[int, BaseException]

    RaysOwn.__module__ = "ray.train.somewhere"
    unforeseen = RaysOwn("Training failed due to worker errors:")
    unforeseen.worker_failures = {0: plain}
    assert root_cause(unforeseen) is plain


FULL = """
import resource, signal, sys
from rgcluster.errors import StorageError
from rgcluster.base.storage import Location
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the first byte too many ends the process
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    (Location(sys.argv[1]) / "large.bin").write_bytes(bytes(2 << 20))
except StorageError as error:
    print(error)
"""


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        f"{tmp_path}/large.bin: no room to write 2048 KiB (File too large); free some"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    if not links:
        monkeypatch.setattr("rgcluster.base.storage.os.link", link)
    file = Location(tmp_path) / "new" / "file"
    assert file.create(b"first") and not file.create(b"second")
    assert file.read_bytes() == b"first" and file.parent.names() == ["file"]
    assert time.time() - 60 < file.modified_below() <= file.parent.modified_below() <= time.time()
    assert (file / "none").modified_below() == 0
