import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_models import COLOR, SMALL, build_model
from torch import nn

from repro.errors import UserError

#: name and settings, image shape, classes, parameters
SIZES = [
    ("resnet18", COLOR, 10, 11_173_962),
    ("resnet18", COLOR, 100, 11_220_132),
    ("vgg16", COLOR, 10, 14_728_266),
    ("vgg16", COLOR, 100, 14_774_436),
    ("alexnet", COLOR, 10, 2_472_266),
    ("alexnet", COLOR, 100, 2_495_396),
    ("wrn_28_10", COLOR, 10, 36_479_194),
    ("wrn_28_10", COLOR, 100, 36_536_884),
    # Given as 0.46 and 0.85 million by He et al. 2016.
    ("resnet_cifar", COLOR, 10, 464_154),
    ("resnet_cifar", COLOR, 100, 470_004),
    ("resnet_cifar depth=56", COLOR, 10, 853_018),
    ("cnn_9", COLOR, 10, 4_434_570),
    ("cnn_9", COLOR, 100, 4_446_180),
    ("small_cnn", COLOR, 10, 25_626),
    ("small_cnn", COLOR, 100, 210_036),
    ("small_cnn", (3, 16, 16), 10, 10_266),
    ("digits_cnn", (1, 8, 8), 10, 21_482),
    ("digits_cnn", (1, 8, 8), 100, 44_612),
]


def small(name: str, shape: tuple[int, int, int] = COLOR, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, shape, **SMALL[name])


@pytest.mark.parametrize(("name", "shape", "num_classes", "wanted"), SIZES)
def test_number_of_parameters(name: str, shape: tuple[int, int, int], num_classes: int, wanted: int) -> None:
    name, *settings = name.split()
    with torch.device("meta"):
        model = build_model(name, shape, num_classes, **{key: int(value) for key, value in (item.split("=") for item in settings)})
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient(name: str) -> None:
    model = small(name)
    torch.manual_seed(1)
    logits = model(torch.randn(4, *COLOR))
    assert logits.shape == (4, 10)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # A bias before BatchNorm is taken out again: its gradient is zero but for rounding.
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_initial_weights_are_a_function_of_torch_s_generator(name: str) -> None:
    state, other = small(name, seed=0).state_dict(), small(name, seed=1).state_dict()
    for key, value in small(name, seed=0).state_dict().items():
        assert torch.equal(value, state[key]), key
    assert any(not torch.equal(value, other[key]) for key, value in state.items())


@pytest.mark.parametrize("name", SMALL)
def test_no_operation_without_a_deterministic_gradient_on_cuda(name: str) -> None:
    pooling = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.Upsample)
    assert not [module for module in small(name).modules() if isinstance(module, pooling)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", ["digits_cnn", "resnet18", "wrn_28_10"])
def test_models_for_images_of_any_size(name: str, shape: tuple[int, int, int]) -> None:
    assert small(name, shape)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(("name", "size"), [("vgg16", 31), ("alexnet", 28), ("cnn_9", 27), ("small_cnn", 3)])
def test_images_that_are_too_small_are_named(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"model={name}: .*at least {size + 1}x{size + 1} .*{size}x{size}"):
        build_model(name, (1, size, size))
    assert small(name, (1, size + 1, size + 1))(torch.zeros(2, 1, size + 1, size + 1)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "wanted"),
    [
        ("resnet18", {}, "BasicBlock", [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 2 + [(512, 4)] * 2),
        ("vgg16", {}, "MaxPool2d", [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)]),
        ("alexnet", {}, "MaxPool2d", [(64, 4), (192, 2), (256, 1)]),
        ("wrn_28_10", {"depth": 16, "widen_factor": 2}, "_Block", [(32, 32)] * 2 + [(64, 16)] * 2 + [(128, 8)] * 2),
        ("resnet_cifar", {"depth": 14}, "Block", [(16, 32)] * 2 + [(32, 16)] * 2 + [(64, 8)] * 2),
        ("cnn_9", {}, "Conv2d", [(128, 32)] * 3 + [(256, 16)] * 3 + [(512, 6), (256, 4), (128, 2)]),
    ],
)
def test_channels_and_sides_of_maps(name: str, settings: dict[str, int], kind: str, wanted: list[tuple[int, int]]) -> None:
    found: list[tuple[int, int]] = []
    model = build_model(name, **settings).eval()
    for module in model.modules():
        if type(module).__name__ == kind:
            module.register_forward_hook(lambda _module, _inputs, output: found.append((output.shape[1], output.shape[2])))
    model(torch.zeros(1, *COLOR))
    assert found == wanted


def test_the_other_layers_of_cnn_9() -> None:
    modules = list(build_model("cnn_9").modules())
    assert [module.p for module in modules if isinstance(module, nn.Dropout2d)] == [0.25, 0.25]
    assert {module.negative_slope for module in modules if isinstance(module, nn.LeakyReLU)} == {0.01}


@pytest.mark.parametrize(
    ("name", "settings", "fan"), [("wrn_28_10", {"depth": 10, "widen_factor": 4}, 0), ("resnet_cifar", {"width": 64}, 1)]
)
def test_a_residual_network_starts_with_a_variance_of_two_over_fan(name: str, settings: dict[str, int], fan: int) -> None:
    """Fan-out of the wide ones, fan-in of the others."""
    torch.manual_seed(0)
    for module in build_model(name, **settings).modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            count = module.weight.shape[fan] * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().var()) == pytest.approx(2 / count, rel=0.1)


@pytest.mark.parametrize(
    ("name", "depth", "allowed"), [("wrn_28_10", 27, "22 or 28"), *(("resnet_cifar", depth, r"6n \+ 2") for depth in (9, 10, 33))]
)
def test_a_residual_network_of_an_impossible_depth_is_named(name: str, depth: int, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"model.depth={depth}: must be .*{allowed}"):
        build_model(name, depth=depth)


def test_wide_resnet_has_dropout_only_on_request() -> None:
    def dropouts(rate: float) -> list[float]:
        model = build_model("wrn_28_10", depth=10, widen_factor=1, dropout=rate)
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert dropouts(0.0) == []
    assert dropouts(0.3) == [0.3] * 3


def test_wide_resnet_block_is_the_paper_s() -> None:
    """Against the block written out: the shortcut of a block that changes the shape starts after BatchNorm and ReLU."""
    from repro.models.wrn_28_10 import _Block

    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 6)
    for outputs, stride in ((4, 1), (8, 2)):
        block = _Block(4, outputs, stride=stride, dropout=0.0).eval()
        active = F.relu(images / np.sqrt(1 + 1e-5))
        hidden = F.relu(F.conv2d(active, block.conv1.weight, stride=stride, padding=1) / np.sqrt(1 + 1e-5))
        shortcut = images if block.shortcut is None else F.conv2d(active, block.shortcut.weight, stride=stride)
        torch.testing.assert_close(block(images), shortcut + F.conv2d(hidden, block.conv2.weight, padding=1))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_a_resnet_block_adds_a_shortcut_without_parameters(inputs: int, outputs: int, stride: int) -> None:
    from repro.models.resnet_cifar import Block

    torch.manual_seed(0)
    block = Block(inputs, outputs, stride=stride).eval()
    maps = torch.randn(2, inputs, 6, 6)
    first, second = (module for module in block.residual if isinstance(module, nn.Conv2d))
    # Fresh BatchNorm in evaluation divides by sqrt(1 + 1e-5) only.
    hidden = F.relu(F.conv2d(maps, first.weight, stride=stride, padding=1) / np.sqrt(1 + 1e-5))
    wanted = F.conv2d(hidden, second.weight, padding=1) / np.sqrt(1 + 1e-5)
    wanted[:, :inputs] += maps[:, :, ::stride, ::stride]
    torch.testing.assert_close(block(maps), F.relu(wanted))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 20)])
def test_digits_cnn_convolves(shape: tuple[int, int, int]) -> None:
    """Its matrices are PyTorch's convolutions."""
    model = small("digits_cnn", shape).eval()
    state = model.state_dict()
    filters = {
        name: value.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        for name, value in state.items()
        if name in ("features.0.weight", "features.3.weight")
    }
    images = torch.randn(5, *shape)
    maps = images
    for number, weight in enumerate(filters.values()):
        norm = model.get_submodule(f"features.{3 * number + 1}")
        maps = F.conv2d(maps, weight, stride=2, padding=1)
        maps = F.relu(norm(maps.permute(0, 2, 3, 1).flatten(0, 2)).view(5, *maps.shape[2:], -1).permute(0, 3, 1, 2))
    wanted = F.linear(maps.flatten(1), state["classifier.weight"], state["classifier.bias"])
    torch.testing.assert_close(model(images), wanted)
