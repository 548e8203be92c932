"""Laws of the label methods: names of classes do not matter, an identical meta set moves nothing twice, order does not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.config import registry
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Context, Method
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep

K, N = 4, 24
#: Whatever reads no other run.
METHODS = [name for name, choice in registry.choices("method").items() if not choice.build.reads_inputs(choice.config())]


def trained_targets(name: str, permutation: torch.Tensor, seed: int) -> torch.Tensor:
    """Train three steps of a linear model whose classes are named by ``permutation``; return the targets, named back."""
    torch.manual_seed(seed)
    images, labels = torch.randn(N, 5).double(), torch.randint(0, K, (N,))
    meta_images, meta_labels = torch.randn(10, 5).double(), torch.randint(0, K, (10,))

    def make_network(name: str) -> torch.nn.Linear:
        network = torch.nn.Linear(5, K).double()
        with torch.no_grad():
            network.weight[permutation] = network.weight.clone()
            network.bias[permutation] = network.bias.clone()
        return network

    model = make_network("init")
    choice = registry.get("method", name)
    more = {"learning_rate": 5.0} if "labels" in name and choice.build.uses_meta else {}
    optim = OptimConfig(name="test", epochs=1, learning_rate=0.5, weight_decay=0.0)
    # A class is confused more with the one whose name follows; names are permuted with everything else.
    transition = torch.full((K, K), 0.05) + 0.6 * torch.eye(K) + 0.2 * torch.eye(K).roll(1, dims=1)
    context = Context(
        K,
        permutation[labels],
        torch.device("cpu"),
        0,
        optim=optim,
        make_network=make_network,
        transition=torch.zeros(K, K).index_put((permutation[:, None], permutation[None, :]), transition),
    )
    method: Method = choice.build(choice.config(**more), context)
    step = TrainingStep(model, SGD(model, optim), method, optim, MetaConfig())
    for index in range(3):
        rows = torch.arange(8) + 8 * index
        meta = MetaBatch(meta_images, permutation[meta_labels]) if method.uses_meta else None
        step(images[rows], rows, permutation[labels][rows], epoch=0, meta=meta)
    # Predictions too: fixed targets are equivariant whatever the loss does.
    return torch.cat([method.targets(torch.arange(N)), torch.softmax(model(images).detach(), 1)], 1)[
        :, torch.cat([permutation, permutation + K])
    ]


@pytest.mark.parametrize("name", METHODS)
@given(order=st.permutations(range(K)), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_equivariant_under_renaming_classes(name: str, order: list[int], seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        named = trained_targets(name, torch.tensor(order), seed)
        plain = trained_targets(name, torch.arange(K), seed)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(named, plain)
    torch.testing.assert_close(named.sum(1), torch.full((N,), 2.0, dtype=torch.float64))
