"""Loss traces of twenty steps in float64. A change that should not alter numbers must leave them as they are.

``python tests/golden/test_traces.py`` rewrites the golden file; that needs a line under Numerics in CHANGELOG.md.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_device import DEVICE

from repro.config import registry
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Context, Method
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from repro.randomness import Stream

pytestmark = pytest.mark.usefixtures("double")

GOLDEN = Path(__file__).with_name("traces.json")
STEPS, BATCH, META = 20, 16, 24

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "one_hot": {"method": {"name": "one_hot"}},
    "one_hot, momentum": {"method": {"name": "one_hot"}, "optim": {"momentum": 0.9, "nesterov": True}},
    "label_smoothing": {"method": {"name": "label_smoothing"}},
    "label_smoothing, nontarget": {"method": {"name": "label_smoothing", "form": "nontarget"}},
    "confidence_penalty": {"method": {"name": "confidence_penalty", "beta": 0.5}},
    "class_labels": {"method": {"name": "class_labels", "learning_rate": 1.0}},
    "class_labels, alpha 0, mean": {
        "method": {"name": "class_labels", "learning_rate": 1.0, "initial_target_probability": 1.0, "class_reduction": "mean"}
    },
    "instance_labels": {"method": {"name": "instance_labels", "learning_rate": 100.0}},
    "instance_labels, momentum look-ahead": {
        "method": {"name": "instance_labels", "learning_rate": 100.0, "momentum": 0.5},
        "optim": {"momentum": 0.9},
        "meta": {"lookahead_momentum": True, "lookahead_weight_decay": True},
    },
    "instance_labels, curriculum": {"method": {"name": "instance_labels", "learning_rate": 100.0, "curriculum": "one_minus_entropy"}},
    "instance_labels, simplex": {"method": {"name": "instance_labels", "learning_rate": 10.0, "parametrization": "simplex"}},
    "instance_labels, old labels": {"method": {"name": "instance_labels", "learning_rate": 100.0}, "meta": {"use_updated": False}},
    "instance_labels, running statistics": {
        "method": {"name": "instance_labels", "learning_rate": 100.0},
        "meta": {"batch_norm": "running"},
    },
    "label_smoothing, noise": {"method": {"name": "label_smoothing", "form": "noise"}},
    "focal": {"method": {"name": "focal"}},
    "forward_correction": {"method": {"name": "forward_correction"}},
    "backward_correction": {"method": {"name": "backward_correction"}},
    "data_parameters": {"method": {"name": "data_parameters", "parameters": "both", "learning_rate": 5.0}},
    "random_weights": {"method": {"name": "random_weights"}},
    "l2rw": {"method": {"name": "l2rw"}},
    "meta_weight_net": {"method": {"name": "meta_weight_net", "learning_rate": 0.1}},
    "meta_weight_net, first code": {"method": {"name": "meta_weight_net", "variant": "first_code", "learning_rate": 0.1}},
    "mentornet_pd": {"method": {"name": "mentornet_pd", "constant_until": 0}},
}


def trace(case: dict[str, dict[str, Any]]) -> list[float]:
    """Train on real digits, a third of them annotated wrongly; return the loss after each step and the final label statistics."""
    dataset = registry.get("dataset", "digits")
    raw = dataset.build(dataset.config(), Path())
    order = Stream(0, "golden").permutation(len(raw.train.labels))
    images = (torch.from_numpy(raw.train.images[order]).double() / 255 - 0.3).to(DEVICE)
    true = torch.from_numpy(raw.train.labels[order]).to(DEVICE)
    observed = torch.where(torch.arange(len(true), device=DEVICE) % 3 == 0, (true + 1) % 10, true)
    torch.manual_seed(Stream(0, "init").torch_seed())
    choice = registry.get("model", "digits_cnn")
    # Made on the CPU, so that every device begins with the same weights.
    model = choice.build(choice.config(width=4), num_classes=10, image_shape=raw.image_shape).double().to(DEVICE)
    settings = dict(case["method"])
    method_choice = registry.get("method", settings.pop("name"))
    # The noise: every third image is annotated as the next class.
    transition = (2.0 * torch.eye(10) + torch.eye(10).roll(1, dims=1)) / 3.0
    context = Context(10, observed[:160], torch.device(DEVICE), 0, transition=transition.to(DEVICE))
    method: Method = method_choice.build(method_choice.config(**settings), context)
    optim = OptimConfig(**{"name": "golden", "epochs": 1, "learning_rate": 0.2, "weight_decay": 1e-3, **case.get("optim", {})})
    step = TrainingStep(model, SGD(model, optim), method, optim, MetaConfig(**case.get("meta", {})))
    values = []
    for index in range(STEPS):
        rows = torch.arange(index * BATCH, (index + 1) * BATCH, device=DEVICE) % 160
        meta_rows = 160 + torch.arange(index * META, (index + 1) * META, device=DEVICE)
        meta = MetaBatch(images[meta_rows], true[meta_rows]) if method.uses_meta else None
        values.append(step(images[rows], rows, observed[rows], epoch=0, meta=meta).loss.item() / BATCH)
    targets = method.targets(torch.arange(160, device=DEVICE))
    return [*values, targets.max(1).values.mean().item(), float((targets.argmax(1) == true[:160]).double().mean())]


@pytest.mark.parametrize("name", CASES)
def test_trace(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == CASES.keys()
    # Rounding differs between processors and PyTorch versions, and twenty steps amplify it; a change of the algorithm is far above.
    assert trace(CASES[name]) == pytest.approx(golden[name], rel=1e-8)


def test_the_cases_differ() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len({tuple(values) for values in golden.values()}) == len(golden)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    GOLDEN.write_text(json.dumps({name: trace(case) for name, case in CASES.items()}, indent=1) + "\n")
