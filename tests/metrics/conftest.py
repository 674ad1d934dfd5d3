import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from vistok.metrics import Accumulator, cmmd, frechet, jackknife, kid, precision_recall, states, usage, usage_by_scale


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks of many small layers spend most of their time waiting for the other thread on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A state dict of torch-fidelity's Inception: initialised after He, so that a signal passes through all layers."""
    with (
        mock.patch.object(fidelity, "load_state_dict_from_url"),
        mock.patch.object(fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("weights") / "inception.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def on_ranks(monkeypatch) -> Callable[[Sequence[Callable]], list]:
    """``on_ranks(functions)``: what each returns if it runs on a rank of its own; collectives join the ranks."""

    def run(functions: Sequence[Callable]) -> list:
        size = len(functions)
        barrier, held, own = threading.Barrier(size), [None] * size, threading.local()

        def everyone(value):
            held[own.rank] = value
            barrier.wait()
            values = list(held)
            barrier.wait()
            return values

        def total(tensor: Tensor) -> Tensor:
            return tensor.copy_(sum(everyone(tensor.clone())))

        def run_one(rank: int):
            own.rank = rank
            return functions[rank]()

        fakes = {"gather_objects": everyone, "sum_over_ranks": total, "rank_and_size": lambda: (own.rank, size)}
        for module in (cmmd, frechet, jackknife, kid, precision_recall, states, usage, usage_by_scale):
            for name, fake in fakes.items():
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, fake)
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(run_one, range(size)))

    return run


@pytest.fixture
def gathered(on_ranks) -> Callable[[Sequence[Accumulator]], list[Accumulator]]:
    """``gathered(accumulators)``: what each becomes if it is the one of a rank, and all ranks gather."""
    return lambda accumulators: on_ranks([own.gather for own in accumulators])
