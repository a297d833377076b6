"""Networks for images: the published ones, written out a second time, in both layouts and both precisions."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from troupe.config import Network, UsageError
from troupe.environments.actions import Actions
from troupe.environments.packing import Packing
from troupe.networks.actor_critic import build
from troupe.networks.encoders import Encoder, encoder
from troupe.networks.images import FromPixels, Images, _rounded_to_sum_zero, is_image, layout

ACTIONS = gym.spaces.Discrete(6)
KINDS = ("a3c", "nature", "impala")


def images(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, shape, np.uint8)


def some(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def random(module: nn.Module, seed: int = 2) -> nn.Module:
    """The module, biases and all other weights random: what is zero proves nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 10.0
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return module


def written_out(kind: str, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """The papers' networks on x in 0..1, [N, C, H, W]: strides, paddings and rectifiers, layer by layer."""
    left = iter([weights[0] - weights[0].mean((1, 2, 3), keepdim=True), *weights[1:]])  # filters that sum to zero

    def conv(x: torch.Tensor, stride: int, padding: int = 0) -> torch.Tensor:
        return functional.conv2d(x, next(left), next(left), stride, padding)

    if kind == "impala":
        for _ in range(3):
            x = functional.max_pool2d(conv(x, 1, 1), kernel_size=3, stride=2, padding=1)
            for _ in range(2):
                before = x
                x = conv(functional.relu(x), 1, 1)
                x = conv(functional.relu(x), 1, 1)
                x = before + x
        x = functional.relu(x)
    else:
        for stride in {"a3c": (4, 2), "nature": (4, 2, 1)}[kind]:
            x = functional.relu(conv(x, stride))
    x = functional.relu(functional.linear(x.flatten(1), next(left), next(left)))
    assert next(left, None) is None
    return x


# What they compute


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 1, np.uint8), (0, 1, np.float32), (-1, 1, np.float64)])
def test_images_are_scaled_by_the_bounds_of_their_space(kind, low, high, dtype):
    """Planes of 0 and 1 were divided by 255."""
    eyes = random(Images(gym.spaces.Box(low, high, (3, 48, 40), dtype), kind))
    obs = torch.from_numpy(np.random.default_rng(1).integers(low, high + 1, (5, 3, 48, 40)).astype(dtype))
    expected = written_out(kind, (obs.float() - low) / (high - low), list(eyes.parameters()))
    torch.testing.assert_close(eyes(obs), expected, rtol=1e-4, atol=1e-5)


def test_gray_images_without_channels_are_those_of_one_channel():
    gray, one = Images(images(48, 40), "nature"), Images(images(48, 40, 1), "nature")
    gray.load_state_dict(random(one).state_dict())
    obs = some(3, 48, 40)
    torch.testing.assert_close(gray(obs), one(obs[..., None]))


@pytest.mark.parametrize(
    ("shape", "lies"),
    [
        ((84, 80, 4), (84, 80, 4, "last")),
        ((4, 84, 80), (84, 80, 4, "first")),
        ((4, 4, 16), (4, 4, 16, "last")),  # a board, whose channels are not the fewest
        ((16, 4, 4), (4, 4, 16, "first")),
        ((10, 10, 10), (10, 10, 10, "last")),
        ((84, 80), (84, 80, 1, "none")),
    ],
)
def test_where_the_channels_are(shape, lies):
    assert layout(images(*shape)) == lies


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_published_network_on_bytes_over_255(kind):
    eyes, obs = random(Images(images(3, 48, 40), kind)), some(5, 3, 48, 40)
    expected = written_out(kind, obs.float() / 255, list(eyes.parameters()))
    assert expected.shape == (5, eyes.features)
    assert (expected > 0).float().mean() > 0.1
    torch.testing.assert_close(eyes(obs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_published_network(kind):
    eyes, obs = random(Images(images(48, 40, 3), kind)), some(2, 48, 40, 3)
    weights = list(eyes.parameters())
    ours = torch.autograd.grad(eyes(obs).square().sum(), weights)
    x = obs.permute(0, 3, 1, 2).float() / 255
    for mine, theirs in zip(ours, torch.autograd.grad(written_out(kind, x, weights).square().sum(), weights),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_the_same_everywhere_is_not_seen(kind):
    """A picture that is brighter as a whole, up to its edges: padding is black."""
    eyes, obs = Images(images(84, 84, 4), kind), some(3, 84, 84, 4) // 2
    first = next(layer for layer in eyes.modules() if isinstance(layer, FromPixels))
    dark, bright = (first(x.permute(0, 3, 1, 2).float())[..., 1:-1, 1:-1] for x in (obs, obs + 100))
    torch.testing.assert_close(dark, bright, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_both_layouts_of_an_image_give_the_same_features(kind):
    first, last = Images(images(4, 60, 44), kind), Images(images(60, 44, 4), kind)
    last.load_state_dict(random(first).state_dict())
    obs = some(3, 4, 60, 44)
    torch.testing.assert_close(last(obs.permute(0, 2, 3, 1).contiguous()), first(obs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 4)])
def test_an_unroll_of_images_is_the_step_of_every_row(kind, shape):
    network = build(images(*shape), ACTIONS, Network(encoder=kind))
    random(network)
    obs = some(3, 2, *shape)
    logits, value, *_ = network.raw_output(obs)
    output = network(obs)
    assert (logits.shape, value.shape) == ((3, 2, 6), (3, 2))
    torch.testing.assert_close(output.distribution.log_probs, logits.log_softmax(-1))
    for t in range(3):
        step = network(obs[t])
        torch.testing.assert_close(output.distribution.log_probs[t], step.distribution.log_probs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(value[t], step.value, rtol=1e-4, atol=1e-4)


# What they are made of


@pytest.mark.parametrize(
    ("kind", "shapes", "number"),
    [
        # 84 -> 20 -> 9: 9 * 9 * 32 = 2,592
        ("a3c", [(16, 4, 8, 8), (32, 16, 4, 4), (256, 2592)], 4_112 + 8_224 + 663_808),
        # 84 -> 20 -> 9 -> 7: 7 * 7 * 64 = 3,136
        ("nature", [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)], 8_224 + 32_832 + 36_928 + 1_606_144),
        # 84 -> 42 -> 21 -> 11: 11 * 11 * 32 = 3,872
        (
            "impala",
            [(16, 4, 3, 3), *[(16, 16, 3, 3)] * 4, (32, 16, 3, 3), *[(32, 32, 3, 3)] * 9, (256, 3872)],
            592 + 4 * 2_320 + 4_640 + 9 * 9_248 + 991_488,
        ),
    ],
)
@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 4)])
def test_layers_and_numbers_of_parameters_are_the_published_ones(kind, shapes, number, shape):
    eyes = Images(images(*shape), kind)
    assert [tuple(each.shape) for each in eyes.parameters() if each.dim() > 1] == shapes
    assert sum(each.numel() for each in eyes.parameters()) == number
    assert eyes.features == shapes[-1][0]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_convolutions_begin_orthogonal_with_gain_sqrt_2_and_without_bias(kind):
    body = build(images(4, 84, 84), ACTIONS, Network(encoder=kind)).body
    for layer in body.encoder.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.flatten(1)
            assert rows.shape[0] <= rows.shape[1]
            torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-4, rtol=0)
            assert not layer.bias.any()
    torch.testing.assert_close(body.policy.weight @ body.policy.weight.T, 1e-4 * torch.eye(6), atol=1e-8, rtol=0)
    torch.testing.assert_close(body.value.weight.norm(), torch.tensor(1.0))
    assert not body.policy.bias.any()
    assert not body.value.bias.any()


# Which of them


@pytest.mark.parametrize(
    ("space", "image"),
    [
        (images(84, 84, 4), True),
        (images(4, 84, 84), True),
        (images(210, 160, 3), True),
        (images(1, 36, 36), True),
        (images(50, 40, 16), True),
        (images(50, 40, 17), False),
        (images(84, 84), True),  # gray
        (images(20, 84), False),
        (images(2, 84, 84, 3), False),
        (images(128), False),
        (gym.spaces.Box(0, 1, (84, 84, 3), np.float32), True),
        (gym.spaces.Box(-1, 1, (84, 84, 3), np.float64), True),
        (gym.spaces.Box(0, 1, (10, 10, 4), np.bool_), True),
        (gym.spaces.Box(0, np.array([[[1.0, 2.0]]] * 9), dtype=np.float32), False),  # each number has bounds of its own
        (gym.spaces.Box(-np.inf, np.inf, (84, 84, 3), np.float32), False),
        (gym.spaces.Box(0, 1, (84, 84), np.float32), False),  # as often a table
        (gym.spaces.Box(-9, 9, (84, 84, 3), np.int8), False),
        (gym.spaces.Discrete(5), False),
        (gym.spaces.MultiBinary((84, 84, 3)), False),
    ],
    ids=str,
)
def test_images_are_bytes_floats_or_bools_within_the_same_bounds_with_few_channels(space, image):
    assert is_image(space) == image


@pytest.mark.parametrize(
    ("space", "kind", "expected"),
    [
        (images(84, 84, 4), "auto", "images"),
        (images(84, 84, 4), "flat", "numbers"),
        (images(7, 7, 3), "auto", "numbers"),  # too small for Nature's convolutions; and codes, perhaps
        (gym.spaces.Box(0, 1, (10, 10, 4), np.bool_), "auto", "images"),  # a board
        (gym.spaces.Box(0, 1, (4, 4, 16), np.uint8), "auto", "numbers"),  # of hardly any cells
        (gym.spaces.Box(0, 1, (84, 84, 3), np.float32), "auto", "images"),
        (images(128), "auto", "numbers"),
        (gym.spaces.Box(-1, 1, (3,)), "auto", "numbers"),
        (gym.spaces.Box(-1, 1, (3,)), "flat", "numbers"),
        (gym.spaces.MultiBinary(3), "auto", "numbers"),
        (gym.spaces.Discrete(5), "auto", "choices"),
        (gym.spaces.MultiDiscrete([2, 3]), "auto", "choices"),
    ],
)
def test_the_encoder_that_is_asked_for_or_suits(space, kind, expected):
    eyes = eyes_for(space, Network(encoder=kind))
    assert [name for name in ("numbers", "choices", "images") if getattr(eyes, name)] == [expected]
    assert eyes.only_images == (expected == "images")


def eyes_for(space: gym.Space, config: Network) -> Encoder:
    return encoder(Packing(space, Actions(ACTIONS)), config)


def test_auto_is_small_for_boards():
    """Young and Tian 2019: 16 filters of 3 x 3, then 128 units."""
    eyes = eyes_for(gym.spaces.Box(0, 1, (10, 10, 4), np.bool_), Network())
    assert [tuple(each.shape) for each in eyes.parameters()] == [(16, 4, 3, 3), (16,), (128, 1024), (128,)]


def test_auto_is_nature_for_images():
    auto, nature = (eyes_for(images(84, 84, 4), Network(encoder=kind)) for kind in ("auto", "nature"))
    assert [each.shape for each in auto.parameters()] == [each.shape for each in nature.parameters()]


def refusal(space: gym.Space, kind: str) -> str:
    with pytest.raises(UsageError) as caught:
        build(space, ACTIONS, Network(encoder=kind))
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(("kind", "least"), [("a3c", 20), ("nature", 36)])
def test_an_image_that_is_too_small_is_refused_in_one_line(kind, least):
    """The least that leaves one pixel: 20 -> 4 -> 1, and 36 -> 8 -> 3 -> 1."""
    for shape in ((least, least, 3), (3, least, least)):
        build(images(*shape), ACTIONS, Network(encoder=kind))
    for height, width in ((least, least - 1), (least - 1, least)):
        expected = f"network.encoder = '{kind}': images of {height} x {width} are too small for it"
        assert refusal(images(height, width, 3), kind) == refusal(images(3, height, width), kind) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(5), images(128)], ids=str)
def test_convolutions_on_what_is_no_image_are_refused_in_one_line(kind, space):
    message = refusal(space, kind)
    assert message.startswith(
        f"network.encoder = '{kind}': it encodes images (docs/extending.md defines what counts as "
    )
    assert f"the observations are {space}" in message
    assert message.endswith("; use flat")


# Precision


@pytest.mark.parametrize("kind", [*KINDS, "flat"])
def test_bfloat16_inside_is_float32_outside_and_close(kind):
    space = images(60, 60, 4) if kind != "flat" else gym.spaces.Box(-1, 1, (8,), np.float32)
    obs = some(6, 60, 60, 4) if kind != "flat" else torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    exact, rough = (
        build(space, ACTIONS, Network(encoder=kind, precision=each, normalize=False))
        for each in ("float32", "bfloat16")
    )
    rough.load_state_dict(random(exact).state_dict())
    outputs, gradients = {}, {}
    for name, network in (("exact", exact), ("rough", rough)):
        outputs[name] = network.raw_output(obs)[:2]
        loss = outputs[name][0].log_softmax(-1)[:, 0].sum() + outputs[name][1].square().sum()
        gradients[name] = torch.autograd.grad(loss, list(network.parameters()))
        assert {each.dtype for each in (*outputs[name], *gradients[name], *network.parameters())} == {torch.float32}
    for mine, theirs in zip(outputs["rough"], outputs["exact"], strict=True):
        assert not torch.equal(mine, theirs)  # it did compute in bfloat16
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.05 * theirs.abs().max().item())
    rough_gradient, exact_gradient = (torch.cat([g.flatten() for g in gradients[n]]) for n in ("rough", "exact"))
    assert functional.cosine_similarity(rough_gradient, exact_gradient, dim=0) > 0.995
    assert rough_gradient.norm() == pytest.approx(float(exact_gradient.norm()), rel=0.05)


def test_a_step_in_bfloat16_gives_probabilities_that_sum_to_one_in_float32():
    network = random(build(images(4, 60, 60), ACTIONS, Network(encoder="a3c", precision="bfloat16")))
    output = network(some(7, 4, 60, 60))
    assert output.distribution.log_probs.dtype == output.value.dtype == torch.float32
    torch.testing.assert_close(output.distribution.log_probs.exp().sum(-1), torch.ones(7), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])  # a learner's weights; an actor's copy
def test_an_even_picture_is_not_seen_in_bfloat16_either(kind, held):
    """Filters rounded one by one answer by some 0.01: enough to switch a unit with a small bias on or off."""
    eyes = Images(images(84, 84, 4), kind)
    first = next(layer for layer in eyes.modules() if isinstance(layer, FromPixels))
    with torch.no_grad():
        first.weight += 0.3  # what they have in common, drifted far
    first.to(held)
    for brightness in (87, 255):
        even = torch.full((1, 4, 84, 84), brightness).to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            response = first(even)[..., 1:-1, 1:-1]
        assert response.abs().max() < 1e-4


def test_only_the_smallest_weight_of_a_filter_is_rounded_further():
    filters = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    filters -= filters.mean((1, 2, 3), keepdim=True)
    rounded = _rounded_to_sum_zero(filters).flatten(1)
    plain = filters.bfloat16().float().flatten(1)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert plain.sum(1).abs().mean() > 0.01 > 50 * rounded.sum(1).abs().max()
    others = torch.ones_like(plain, dtype=torch.bool).scatter(1, plain.abs().argmin(1, keepdim=True), False)
    assert torch.equal(rounded[others], plain[others])


def test_gradients_on_a_picture_that_is_mostly_even_are_the_same_in_bfloat16():
    """A game's: what filters say of the background must not depend on how they were rounded."""
    obs = torch.full((16, 84, 84, 4), 87, dtype=torch.uint8)
    obs[:, 20:60, 30:60] = some(16, 40, 30, 4)
    eyes = Images(images(84, 84, 4), "a3c")
    first = next(layer for layer in eyes.modules() if isinstance(layer, FromPixels))
    with torch.no_grad():
        first.bias.uniform_(-2e-3, 2e-3, generator=torch.Generator().manual_seed(4))
    gradients = []
    for rough in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            loss = eyes(obs).float().sum(1).square().mean()
        gradients.append(torch.autograd.grad(loss, [first.bias, first.weight]))
    for exact, mine in zip(*gradients, strict=True):
        assert functional.cosine_similarity(mine.flatten(), exact.flatten(), dim=0) > 0.99
        assert mine.norm() == pytest.approx(float(exact.norm()), rel=0.02)


def test_every_byte_is_itself_in_bfloat16():
    """Why images may be turned into bfloat16 before the division by 255."""
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(every.to(torch.bfloat16).float(), every.float())


@pytest.mark.parametrize(
    "space", [gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, ()), gym.spaces.MultiDiscrete([2])]
)
def test_no_observations_give_no_features(space):
    packing = Packing(space, Actions(ACTIONS))
    eyes = encoder(packing, Network())
    none = np.zeros((0, *packing.space.shape), packing.space.dtype)
    assert eyes(packing.unpack(torch.from_numpy(none))[0]).shape == (0, eyes.features)
