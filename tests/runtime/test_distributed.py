"""Several processes: one run folder, the losses of one process with the whole batch, and no one left waiting."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import SMOKE, run_command
from torch import distributed as dist
from torch import nn
from two_processes import Endings, together

from sct import train
from sct.errors import UserError
from sct.runtime import checkpoint, distributed
from sct.runtime.distributed import Processes, pick_device

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# three validation cases for two processes; the noise of STP differs between processes by design
STP = "encoder.reducer.perturb=false"
# a loss of image by image, whose mean does not ask which process has an image; with few channels rounding grows slowly
# enough to compare several steps
DENSE = (
    "loss.pixel.batch=false",
    "loss.pixel.log=false",
    "encoder=dense",
    "completion=scatter",
    "decoder.feature_size=4",
    "trainer.max_steps=6",
)
# keep a different number of tokens for each image; a head whose statistics are not those of a batch
RAGGED = {
    "asvit": ("encoder=asvit", "encoder.reducer.budget=0.9", "encoder.reducer.thresholds=0.02"),
    "dtop": (
        "encoder=dtop",
        "encoder.reducer.head=fcn",
        "encoder.reducer.fcn.norm=layer",
        "encoder.reducer.p0=0.16",
        "decoder=fcn",
        "decoder.norm=layer",
        "completion=scatter",
        "encoder.taps=0",
    ),
}
# small crops, many of which hold no organ
BACKGROUND = ("data.roi_size=[8,8,8]", "encoder.patch_size=4", "data.positive_share=0", "trainer.max_steps=8")
# some images have patches that ask nothing in every block, and some do not
RARE = ("data.batch_size=1", "optimizer.lr=0.01", "encoder.gate.threshold=0.45", "trainer.max_steps=8")


def places(folder: Path) -> list[str]:
    return [f"paths.data={folder}/data", f"paths.cache={folder}/cache", f"paths.outputs={folder}/runs"]


def common(folder: Path) -> list[str]:
    """What all trainings here begin with."""
    return [*SMOKE, *places(folder), "data.num_val=3"]


def rows(run: Path, kind: str) -> list[dict[str, float]]:
    """The training or the validation rows of a run, without times and memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k == "step" or k.startswith(kind)} for row in lines]
    return [row for row in kept if len(row) > 1]


def losses(run: Path) -> np.ndarray:
    return np.array([row["train/loss"] for row in rows(run, "train/")])


def meet(rank: int, place: Path) -> None:
    """In a process of its own: ends with 0 if the running statistics are those of the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    norm = nn.BatchNorm3d(4)
    norm(torch.randn(2, 4, 3, 3, 3) + rank)
    if rank == 0:
        norm.running_mean.zero_()
    Processes(rank, 2, torch.device("cpu")).share_buffers(norm)
    same = not norm.running_mean.any()
    dist.destroy_process_group()
    raise SystemExit(0 if same else 1)


def test_running_statistics_are_shared(tmp_path):
    # forked, they would wait for threads of this process
    processes = multiprocessing.get_context("spawn")
    pair = [processes.Process(target=meet, args=(rank, tmp_path / "meeting")) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
    assert [process.exitcode for process in pair] == [0, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def torchrun_pair(folder) -> Path:
    """The run of two processes that torchrun started."""
    arguments = [*common(folder), *DENSE]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sct.train"]
    result = subprocess.run(
        [*torchrun, *arguments, "data.batch_size=1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Grad strides do not match" not in result.stderr
    (pair,) = (folder / "runs" / "smoke").iterdir()
    assert (pair / "finished").exists()
    return pair


def test_torchrun_trains_as_one_process_with_the_whole_batch(torchrun_pair, folder):
    arguments = [*common(folder), *DENSE]
    outcome = run_command(train.main, *arguments, "data.batch_size=2", f"run_dir={folder}/one")
    assert outcome.status == 0, outcome
    assert len(losses(torchrun_pair)) == 6
    np.testing.assert_allclose(losses(torchrun_pair), losses(folder / "one"), atol=1e-4, rtol=0)
    of_pair, of_one = rows(torchrun_pair, "val/"), rows(folder / "one", "val/")
    assert [row["step"] for row in of_pair] == [2, 4, 6]
    for row, other in zip(of_pair, of_one, strict=True):
        assert row == pytest.approx(other, abs=1e-3)


def assert_same_run(run: Path, other: Path) -> None:
    """To the bit: weights, losses and scores."""
    ours, theirs = (checkpoint.load_newest(folder)["model"] for folder in (run, other))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert rows(run, "train/") == rows(other, "train/")
    assert rows(run, "val/") == rows(other, "val/")


@pytest.fixture
def two_nodes() -> Iterator[list[tuple[str, str, str]]]:
    """Two network namespaces with a cable between them: name, interface and address of each."""
    nodes = [(f"sct{os.getpid()}n{number}", f"sct{number}", f"10.77.0.{number}") for number in (1, 2)]
    ((one, cable, _), (two, other, _)) = nodes
    commands = [
        *(f"ip netns add {name}" for name in (one, two)),
        f"ip link add {cable} netns {one} type veth peer name {other} netns {two}",
        *(f"ip -n {name} addr add {address}/24 dev {interface}" for name, interface, address in nodes),
        *(f"ip -n {name} link set {interface} up" for name, interface, _ in nodes),
        *(f"ip -n {name} link set lo up" for name in (one, two)),
    ]
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip(f"network namespaces can't be made here: {command}")
        yield nodes
    finally:
        for name in (one, two):
            if shutil.which("ip"):
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.long
def test_two_nodes_train_as_one(two_nodes, torchrun_pair, folder):
    settings = [*common(folder), *DENSE, "data.batch_size=1", f"run_dir={folder}/nodes"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "1", "--rdzv-endpoint", f"{two_nodes[0][2]}:29400"]
    processes = []
    for number, (name, interface, address) in enumerate(two_nodes):
        host = ["--rdzv-conf", f"is_host={'false' if number else 'true'}", "--local-addr", address]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command = ["ip", "netns", "exec", name, *torchrun, *meeting, *host, "-m", "sct.train", *settings]
        environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": interface}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    assert [process.wait() for process in processes] == [0, 0]
    assert_same_run(folder / "nodes", torchrun_pair)


@pytest.fixture(scope="module")
def pairs(folder) -> Endings:
    """How two processes ended that Slurm would have started, by case; all in one start of Python."""
    spoilt = folder / "spoilt"
    arguments = common(folder)
    outcome = run_command(train.main, *arguments, "trainer.max_steps=1", f"run_dir={folder}/for_its_data")
    assert outcome.status == 0, outcome
    shutil.copytree(folder / "data" / "phantom_smoke", spoilt)
    # the second case of the first step is read by the second process
    image = nib.load(spoilt / "organs/RawData/Training/img/img0002.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), image.get_filename())
    # with the decoder of the demo itself, whose kernels of a single channel have strides that autograd ignores
    demo = [argument for argument in arguments if not argument.startswith("decoder=")]
    apformer = ["+experiment=synapse_apformer", "+debug=smoke_synapse", "trainer.tensorboard=false", *places(folder)]
    cases = {
        "as torchrun": [*arguments, *DENSE, f"run_dir={folder}/slurm"],
        "stp": [*arguments, STP, f"run_dir={folder}/pair"],
        "resumed": [f"resume={folder}/pair", "trainer.max_steps=6"],
        "nothing pruned": [*arguments, "pruning.ratio=0", "trainer.max_steps=2", f"run_dir={folder}/whole"],
        **{name: [*arguments, *RAGGED[name], f"run_dir={folder}/{name}"] for name in RAGGED},
        "no foreground": [*demo, *BACKGROUND, f"run_dir={folder}/little"],
        "no dependencies": [*apformer, *RARE, f"run_dir={folder}/gated"],
        "bad config": [*arguments, "encoder.dimm=3", f"run_dir={folder}/bad"],
        "bad setting": [*arguments, "trainer.best_metric=loss", f"run_dir={folder}/bad"],
        "no data": ["+experiment=btcv_stp_mta", *places(folder), f"data.root={folder}/none", f"run_dir={folder}/bad"],
        "not finite": [*arguments, f"data.root={spoilt}", "data.check=false", f"run_dir={folder}/nan"],
    }
    return together(cases, folder)


def test_a_pair_equals_accumulation_in_one_process_and_resumes_exactly(pairs, folder):
    assert [status for status, _ in pairs["stp"] + pairs["resumed"]] == [0, 0, 0, 0], pairs
    arguments = [*common(folder), STP, "trainer.accumulate=2"]
    one = folder / "accumulated"
    assert run_command(train.main, *arguments, f"run_dir={one}").status == 0
    assert run_command(train.main, f"resume={one}", "trainer.max_steps=6").status == 0
    assert len(losses(folder / "pair")) == 6
    np.testing.assert_allclose(losses(folder / "pair"), losses(one), atol=1e-5, rtol=0)
    assert [row["step"] for row in rows(folder / "pair", "val/")] == [2, 4, 6]
    states = [checkpoint.load_newest(run) for run in (folder / "pair", one)]
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(value, states[1]["model"][name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", RAGGED)
def test_a_pair_whose_images_keep_different_numbers_of_tokens_equals_accumulation(pairs, folder, method):
    assert [status for status, _ in pairs[method]] == [0, 0], pairs[method]
    one = folder / f"accumulated_{method}"
    arguments = [*common(folder), *RAGGED[method], "trainer.accumulate=2"]
    assert run_command(train.main, *arguments, f"run_dir={one}").status == 0
    np.testing.assert_allclose(losses(folder / method), losses(one), atol=1e-4, rtol=0)
    kept = [row["tokens/kept_1"] for row in rows(folder / method, "tokens/kept_1")]
    assert any(0 < share < 1 for share in kept), "some tokens are pruned"


def test_tasks_of_slurm_train_as_those_of_torchrun(pairs, torchrun_pair, folder):
    assert [status for status, _ in pairs["as torchrun"]] == [0, 0], pairs["as torchrun"]
    assert_same_run(folder / "slurm", torchrun_pair)


@pytest.mark.parametrize(
    ("case", "run", "name"),
    [
        ("no foreground", "little", "tokens/foreground_kept_1"),
        ("no dependencies", "gated", "reducer/dependencies_pruned_"),
    ],
)
def test_numbers_that_only_one_process_has_are_logged(pairs, folder, case, run, name):
    assert [status for status, _ in pairs[case]] == [0, 0], pairs[case]
    assert "Grad strides do not match" not in "".join(message for _, message in pairs[case])
    assert rows(folder / run, name)


def test_parameters_without_gradient_do_not_hold_a_pair_up(pairs):
    assert [status for status, _ in pairs["nothing pruned"]] == [0, 0], pairs["nothing pruned"]


@pytest.mark.parametrize(
    ("case", "words"),
    [("bad config", "encoder.dimm"), ("no data", "syn3193805"), ("bad setting", "trainer.best_metric=loss")],
)
def test_a_mistake_ends_both_processes(pairs, folder, case, words):
    (status, message), (other_status, other_message) = pairs[case]
    assert (status, other_status) == (1, 1)
    assert message.count("Error: ") == 1
    assert words in message
    assert "Traceback" not in message + other_message
    assert not other_message or other_message.startswith("Error in process 1: ")
    assert not (folder / "bad").exists()


def test_a_loss_that_is_not_finite_in_one_process_ends_both(pairs, folder):
    (status, message), (other_status, other_message) = pairs["not finite"]
    assert (status, other_status) == (1, 1)
    assert "not finite" in message
    assert "at step 1, cases 0002" in message
    assert "loss=nan" in other_message
    assert not checkpoint.step_files(folder / "nan")


def test_one_process_needs_no_group():
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    assert alone.is_main
    assert alone.broadcast(3) == 3
    assert alone.gather("a") == ["a"]
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.on_main(lambda: 5) == 5
    with pytest.raises(UserError, match="bad"):
        alone.on_main(lambda: (_ for _ in ()).throw(UserError("bad")))


def test_cases_are_shared_out_once():
    parts = [Processes(rank=rank, world_size=3, device=torch.device("cpu")).share(range(7)) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]


def test_joining_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.join("cpu") == Processes(rank=0, world_size=1, device=torch.device("cpu"))


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"device={name}"):
            pick_device(name)
