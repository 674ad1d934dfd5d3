import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from vistok.metrics import Accumulator, frechet, states, usage


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
def gathered(monkeypatch) -> Callable[[Sequence[Accumulator]], list[Accumulator]]:
    """``gathered(accumulators)``: what each becomes if it is the one of a rank, and all ranks gather."""

    def gather(accumulators: Sequence[Accumulator]) -> list[Accumulator]:
        size = len(accumulators)
        barrier, held, own = threading.Barrier(size), [None] * size, threading.local()

        def everyone(value):
            held[own.rank] = value
            barrier.wait()
            values = list(held)
            barrier.wait()
            return values

        def total(tensor: Tensor) -> Tensor:
            return tensor.copy_(sum(everyone(tensor.clone())))

        def gather_one(rank: int) -> Accumulator:
            own.rank = rank
            return accumulators[rank].gather()

        for module in (frechet, states, usage):
            monkeypatch.setattr(module, "gather_objects", everyone)
        for module in (frechet, states):
            monkeypatch.setattr(module, "sum_over_ranks", total)
        monkeypatch.setattr(states, "rank_and_size", lambda: (own.rank, size))
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(gather_one, range(size)))

    return gather
