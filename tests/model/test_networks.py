"""The networks against Tables 5 and 8, and against the same mathematics written plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import random_images, tiny_config
from torch import Tensor, nn

from rgcluster.base.checkpoint.tree import network_digest
from rgcluster.config import Config, load_config
from rgcluster.errors import ConfigError
from rgcluster.model.fill import Fill
from rgcluster.model.fusion import AttentionFusion, ConvolutionFusion, Fused, References
from rgcluster.model.layers import AdaptiveInstanceNorm, ConvBlock, LayerNorm2d, UpsampleConv, instance_norm
from rgcluster.model.networks import (
    ContentEncoder,
    Discriminator,
    Generator,
    StyleEncoder,
)
from rgcluster.model.retrieval import JointEncoder, SplitEncoder, retrieval_encoder
from rgcluster.model.translator import Translator

Row = tuple[str, int, int, int, int]

RESIDUAL_BLOCKS: list[Row] = [("3x3 s1", 256, 256, 32, 32)] * 8
"""Four blocks of two convolutions."""

# Kernel and stride, channels in and out, height and width of the output; a linear layer has no size.
CONTENT_ENCODER = [
    ("7x7 s1", 3, 64, 128, 128),
    ("4x4 s2", 64, 128, 64, 64),
    ("4x4 s2", 128, 256, 32, 32),
    *RESIDUAL_BLOCKS,
]
STYLE_ENCODER = [
    ("7x7 s1", 3, 64, 128, 128),
    ("4x4 s2", 64, 128, 64, 64),
    ("4x4 s2", 128, 256, 32, 32),
    ("4x4 s2", 256, 256, 16, 16),
    ("4x4 s2", 256, 256, 8, 8),
    ("linear", 256, 40, 0, 0),  # mean
    ("linear", 256, 40, 0, 0),  # log-variance
]
GENERATOR = [
    ("linear", 40, 256, 0, 0),
    ("linear", 256, 256, 0, 0),
    ("linear", 256, 4 * 2 * 2 * 256, 0, 0),  # 4 blocks x 2 norms x (shift, scale) x 256
    *RESIDUAL_BLOCKS,
    ("5x5 s1", 256, 128, 64, 64),
    ("5x5 s1", 128, 64, 128, 128),
    ("7x7 s1", 64, 3 + 1, 128, 128),  # the heads of picture and mask, as one
]
DISCRIMINATOR = [
    ("4x4 s2", 3, 64, 64, 64),
    ("4x4 s2", 64, 128, 32, 32),
    ("4x4 s2", 128, 256, 16, 16),
    ("4x4 s2", 256, 512, 8, 8),
    ("1x1 s1", 512, 1, 8, 8),
    ("8x8 s1", 512, 5, 1, 1),
]
RETRIEVAL_ENCODER = [
    ("3x3 s1", 256, 128, 32, 32),
    ("4x4 s2", 128, 128, 16, 16),
    ("3x3 s1", 128, 64, 16, 16),
    ("4x4 s2", 64, 64, 8, 8),
    ("3x3 s1", 64, 32, 8, 8),
    ("4x4 s2", 32, 32, 4, 4),
    ("linear", 32 * 4 * 4 + 40, 512, 0, 0),
    ("linear", 512, 512, 0, 0),
    ("linear", 512, 100, 0, 0),
]
FUSION = [("3x3 s1", 3 * 256, 256, 32, 32), ("3x3 s1", 2 * 256, 256, 32, 32)]


class ContentFusion(ConvolutionFusion):
    """Eq. 9's f, which looks at the references' contents alone."""

    def forward(self, content: Tensor, contents: Tensor) -> Fused:  # type: ignore[override]
        return super().forward(content, self.remember(References(contents, contents)))


IMAGE, CONTENT, STYLE = (1, 3, 128, 128), (1, 256, 32, 32), (1, 40)

TABLES = {
    "E_c": (ContentEncoder, CONTENT_ENCODER, [IMAGE], 5_385_856),
    "E_s": (StyleEncoder, STYLE_ENCODER, [IMAGE], 2_783_440),
    "G": (Generator, GENERATOR, [CONTENT, STYLE, IMAGE], 6_886_724),
    "D": (Discriminator, DISCRIMINATOR, [IMAGE], 2_920_902),
    "R": (JointEncoder, RETRIEVAL_ENCODER, [CONTENT, STYLE], 1_328_676),
    "f": (ContentFusion, FUSION, [CONTENT, (1, 3, 256, 32, 32)], 2_949_632),
}


def walk(network: nn.Module, *inputs: Tensor) -> list[Row]:
    """Every convolution and linear layer in the order in which a forward calls them."""
    rows: list[Row] = []

    def conv(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        (height, width), (down, right) = module.kernel_size, module.stride
        assert down == right
        kind = f"{height}x{width} s{down}"
        rows.append((kind, module.in_channels, module.out_channels, output.shape[2], output.shape[3]))

    def linear(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        rows.append(("linear", module.in_features, module.out_features, 0, 0))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(conv)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    network(*inputs)
    return rows


def weights_in(row: Row) -> int:
    """Weights and biases of one row of a table."""
    area = 1 if row[0] == "linear" else int(row[0][0]) * int(row[0][2])
    return area * row[1] * row[2] + row[2]


@pytest.mark.parametrize("name", TABLES)
def test_layers_are_those_of_the_tables(name: str) -> None:
    build, table, shapes, _ = TABLES[name]
    with torch.device("meta"):
        found = walk(build(Config()), *(torch.empty(shape) for shape in shapes))
    assert found == table


@pytest.mark.parametrize("name", TABLES)
def test_parameter_counts(name: str) -> None:
    build, table, _, count = TABLES[name]
    with torch.device("meta"):
        network = build(Config())
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    layer_norms = 2 * (128 + 64) if name == "G" else 0
    assert sum(map(weights_in, table)) + layer_norms == count


def test_discriminator_has_the_papers_2_92_million() -> None:
    assert round(sum(map(weights_in, DISCRIMINATOR)) / 1e6, 2) == 2.92


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("width", [8, 16, 64])
def test_shapes(size: int, width: int) -> None:
    config = load_config(
        "paper", [f"data.image_size={size}", f"model.width={width}", "model.num_residual_blocks=2"]
    )
    with torch.device("meta"):
        image = torch.empty(2, 3, size, size)
        content = ContentEncoder(config)(image)
        posterior = StyleEncoder(config)(image)
        generated = Generator(config)(content, posterior.mean, image)
        source, domain = Discriminator(config)(image)
        embedding = JointEncoder(config)(content, posterior.mean)
        references = References(torch.stack([image] * 3, dim=1), torch.stack([content] * 3, dim=1))
        convolved, attended = ConvolutionFusion(config), AttentionFusion(config)
        fused = convolved(content, convolved.remember(references)).content
        looked = attended(content, attended.remember(references))
    assert content.shape == fused.shape == looked.content.shape == (2, 4 * width, size // 4, size // 4)
    assert looked.colour is not None and looked.colour.shape == (2, 3, size // 4, size // 4)
    assert looked.paint is not None and looked.paint.shape == (2, width, size, size)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 40)
    assert generated.image.shape == generated.raw.shape == image.shape
    assert generated.mask.shape == (2, 1, size, size)
    assert source.shape == (2, 1, size // 16, size // 16)
    assert domain.shape == (2, 5)
    assert embedding.shape == (2, 100)


# --- the same mathematics, written plainly from the tables ---


def conv(x: Tensor, layer: nn.Conv2d, padding: int, stride: int = 1, mode: str = "reflect") -> Tensor:
    padded = F.pad(x, (padding,) * 4, mode=mode)
    return F.conv2d(padded, layer.weight, layer.bias, stride)


def norm(x: Tensor) -> Tensor:
    return x if x.shape[-1] <= 2 else F.instance_norm(x)


PADDING = {7: 3, 5: 2, 4: 1, 3: 1}


def block(x: Tensor, layer: nn.Conv2d) -> Tensor:
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    return conv(x, layer, PADDING[kernel], stride)


def convs(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def plain_content(network: ContentEncoder, x: Tensor) -> Tensor:
    first, second, third, *residual = convs(network)
    for layer in (first, second, third):
        x = F.relu(norm(block(x, layer)))
    for one, two in zip(residual[::2], residual[1::2], strict=True):
        x = x + norm(block(F.relu(norm(block(x, one))), two))
    return x


def plain_style(network: StyleEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    for layer in convs(network):
        x = F.relu(block(x, layer))
    pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return network.mean(pooled), network.log_variance(pooled)


def plain_generator(network: Generator, content: Tensor, style: Tensor, image: Tensor, mode: str) -> Tensor:
    first, second, third = (layer for layer in network.style_mlp if isinstance(layer, nn.Linear))
    numbers = third(F.relu(second(F.relu(first(style)))))
    pairs = numbers.chunk(len(network.blocks) * 4, dim=1)  # for each norm its shift, then its scale
    x, at = content, 0
    for residual in network.blocks:
        y = x
        for index, layer in enumerate((residual.first, residual.second)):
            y = norm(conv(y, layer, 1, mode="constant"))
            y = y * (1 + pairs[at + 1])[:, :, None, None] + pairs[at][:, :, None, None]
            at += 2
            y = F.relu(y) if index == 0 else y
        x = x + y
    for index in (0, 3):
        larger = F.interpolate(x, scale_factor=2, mode=mode)
        x = conv(larger, network.decoder[index].conv, 2, mode="constant")
        layer_norm = network.decoder[index + 1]
        x = F.relu(F.group_norm(x, 1, layer_norm.weight, layer_norm.bias))
    heads = conv(x, network.heads, 3, mode="constant")
    raw, mask = torch.tanh(heads[:, :3]), torch.sigmoid(heads[:, 3:])
    return raw * mask + image * (1 - mask)


def plain_discriminator(network: Discriminator, x: Tensor) -> tuple[Tensor, Tensor]:
    *body, source, domain = convs(network)
    for layer in body:
        x = F.leaky_relu(block(x, layer), 0.01)
    return source(x), domain(x).flatten(1)


def plain_retrieval(network: JointEncoder, x: Tensor, style: Tensor) -> Tensor:
    for layer in convs(network):
        x = F.relu(norm(block(x, layer)))
    first, second, third = (layer for layer in network.head if isinstance(layer, nn.Linear))
    joined = torch.cat([x.flatten(1), style], dim=1)
    return third(F.relu(second(F.relu(first(joined)))))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@torch.no_grad()
def test_forwards_equal_the_plain_mathematics(size: int, upsampling: str) -> None:
    config = tiny_config(
        f"data.image_size={size}", f"model.upsampling={upsampling}", "model.num_residual_blocks=2"
    )
    torch.manual_seed(0)
    x = random_images(2, size)
    encoder, styles, generator = ContentEncoder(config), StyleEncoder(config), Generator(config)
    for layer in (generator.decoder[1], generator.decoder[4]):  # ones and zeros at first: they would hide
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    discriminator, retrieval = Discriminator(config), JointEncoder(config).eval()
    content, style = encoder(x), torch.randn(2, 40)
    torch.testing.assert_close(content, plain_content(encoder, x))
    torch.testing.assert_close(tuple(styles(x)), plain_style(styles, x))
    torch.testing.assert_close(
        generator(content, style, x).image, plain_generator(generator, content, style, x, upsampling)
    )
    torch.testing.assert_close(discriminator(x), plain_discriminator(discriminator, x))
    torch.testing.assert_close(retrieval(content, style), plain_retrieval(retrieval, content, style))


@torch.no_grad()
def test_dropout_works_in_training_only() -> None:
    config = tiny_config("model.retrieval_dropout=0.5")
    network, content, style = JointEncoder(config), torch.randn(2, 32, 8, 8), torch.randn(2, 40)
    assert not torch.equal(network(content, style), network(content, style))
    network.eval()
    assert torch.equal(network(content, style), network(content, style))


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one() -> None:
    config = tiny_config()
    torch.manual_seed(0)
    translator, x, style = Translator(config), random_images(3), torch.randn(3, 40)
    together = translator(x, style).image
    alone = torch.cat([translator(x[i : i + 1], style[i : i + 1]).image for i in range(3)])
    torch.testing.assert_close(together, alone)


@torch.no_grad()
def test_memory_layout_does_not_matter() -> None:
    torch.manual_seed(0)
    translator, x, style = Translator(tiny_config()), random_images(2), torch.randn(2, 40)
    plain = translator(x, style).image
    last = translator.to(memory_format=torch.channels_last)(
        x.contiguous(memory_format=torch.channels_last), style
    )
    torch.testing.assert_close(plain, last.image)


@pytest.mark.parametrize("fusion", ["literal", "attention"])
def test_gradients_reach_every_parameter(fusion: str) -> None:
    config = tiny_config(f"model.fusion={fusion}")
    torch.manual_seed(0)
    translator, x, style = Translator(config, guided=True), random_images(2), torch.randn(2, 40)
    near = translator.encode_references(random_images(6, seed=1).unflatten(0, (2, 3)))
    posterior = translator.style_encoder(x)
    discriminator, retrieval = Discriminator(config), JointEncoder(config)
    image = translator(x, style, near).image
    scores, logits = discriminator(image)
    embedding = retrieval(translator.content_encoder(x), style)
    loss = scores.square().sum() + logits.square().sum() + embedding.square().sum()
    (loss + posterior.mean.square().sum() + posterior.log_variance.square().sum()).backward()
    for network in (translator, discriminator, retrieval):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# --- attention ---


def generator_with_gate(gate: float, *overrides: str) -> Generator:
    """G whose mask is sigmoid(gate) everywhere."""
    torch.manual_seed(0)
    generator = Generator(tiny_config(*overrides))
    with torch.no_grad():
        generator.heads.weight[3] = 0
        generator.heads.bias[3] = gate
    return generator


@torch.no_grad()
def test_mask_blends_the_picture_with_the_input() -> None:
    content, style, x = torch.randn(2, 32, 8, 8), torch.randn(2, 40), random_images(2)
    closed = generator_with_gate(-200.0)(content, style, x)
    assert torch.equal(closed.image, x)
    opened = generator_with_gate(200.0)(content, style, x)
    assert torch.equal(opened.image, opened.raw)
    half = generator_with_gate(0.0)(content, style, x)
    torch.testing.assert_close(half.image, (half.raw + x) / 2)
    assert half.raw.abs().max() <= 1


@torch.no_grad()
def test_a_sharpened_mask_opens_or_closes_more() -> None:
    content, style, x = torch.randn(2, 32, 8, 8), torch.randn(2, 40), random_images(2)
    generator = generator_with_gate(1.0)
    before = generator(content, style, x)
    generator.sharpen(3.0)
    after = generator(content, style, x)
    torch.testing.assert_close(after.mask, torch.full_like(after.mask, 3.0).sigmoid())
    assert torch.equal(after.raw, before.raw) and (after.mask > before.mask).all()
    nearly_closed = generator_with_gate(-1.0)
    nearly_closed.sharpen(3.0)
    torch.testing.assert_close(nearly_closed(content, style, x).mask, 1 - after.mask)


@torch.no_grad()
def test_without_attention_the_picture_is_raw() -> None:
    content, style, x = torch.randn(2, 32, 8, 8), torch.randn(2, 40), random_images(2)
    generated = generator_with_gate(-200.0, "model.attention=false")(content, style, x)
    assert torch.equal(generated.image, generated.raw)
    assert torch.equal(generated.mask, torch.ones_like(generated.mask))
    assert not torch.equal(generated.image, x)
    paused = generator_with_gate(-200.0)(content, style, x, attention=0.0)
    assert torch.equal(paused.image, generated.image) and torch.equal(paused.mask, generated.mask)


@torch.no_grad()
@pytest.mark.parametrize("attention", [0.25, 0.5, 1.0])
def test_the_strength_of_the_mask_can_be_partial(attention: float) -> None:
    content, style, x = torch.randn(2, 32, 8, 8), torch.randn(2, 40), random_images(2)
    closed = generator_with_gate(-200.0)(content, style, x, attention)
    torch.testing.assert_close(closed.image, attention * x + (1 - attention) * closed.raw)
    opened = generator_with_gate(200.0)(content, style, x, attention)
    torch.testing.assert_close(opened.image, opened.raw)


# --- fusion ---


def fusion_inputs() -> tuple[Tensor, References]:
    torch.manual_seed(0)
    content, contents = torch.randn(2, 32, 8, 8), torch.randn(2, 3, 32, 8, 8)
    return content, References(torch.rand(2, 3, 3, 32, 32) * 2 - 1, contents)


def test_residual_fusion_starts_as_the_identity_and_can_leave_it() -> None:
    content, near = fusion_inputs()
    fusion = ConvolutionFusion(tiny_config())
    fused = fusion(content, fusion.remember(near)).content
    assert torch.equal(fused, content)
    fused.square().sum().backward()
    assert fusion.outer.weight.grad is not None and fusion.outer.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_literal_fusion_is_equation_9() -> None:
    content, near = fusion_inputs()
    fusion = ConvolutionFusion(tiny_config("model.fusion=literal"))
    merged = F.relu(conv(near.contents.flatten(1, 2), fusion.inner, 1))
    expected = F.relu(conv(torch.cat([content, merged], dim=1), fusion.outer, 1))
    fused = fusion(content, fusion.remember(near)).content
    torch.testing.assert_close(fused, expected)
    assert fused.min() == 0 and fused.max() > 0


@torch.no_grad()
def test_attention_gathers_the_colours_of_attended_places() -> None:
    """With a code of places that dwarfs the contents, every place looks at itself in the references."""
    content, near = fusion_inputs()
    fusion = AttentionFusion(tiny_config("model.fusion=attention"))
    fusion.place.copy_(100 * F.normalize(fusion.place))
    colour = fusion(content, fusion.remember(References(near.images, torch.zeros_like(near.contents)))).colour
    assert colour is not None
    torch.testing.assert_close(colour, F.avg_pool2d(near.images.mean(dim=1), 4), atol=2e-2, rtol=0)


@torch.no_grad()
def test_attention_ignores_the_order_and_the_repetition_of_references() -> None:
    content, near = fusion_inputs()
    fusion = AttentionFusion(tiny_config("model.fusion=attention"))
    fused = fusion(content, fusion.remember(near))
    for order in ([2, 0, 1], [0, 0, 1, 1, 2, 2]):
        other = fusion(content, fusion.remember(References(near.images[:, order], near.contents[:, order])))
        torch.testing.assert_close(other.content, fused.content)
        torch.testing.assert_close(other.colour, fused.colour)
        torch.testing.assert_close(other.paint, fused.paint)


@torch.no_grad()
def test_attention_is_the_softmax_of_scaled_products() -> None:
    """Place by place, against the definition."""
    content, near = fusion_inputs()
    fusion = AttentionFusion(tiny_config("model.fusion=attention"))
    keys = torch.stack([fusion.key(near.contents[:, k]) + fusion.place for k in range(3)], dim=1)
    queries = fusion.query(content) + fusion.place
    pooled = F.avg_pool2d(near.images.flatten(0, 1), 4).unflatten(0, (2, 3))
    row, down, right = 1, 3, 6
    scores = (queries[row, :, down, right, None, None] * keys[row]).sum(1) / 16**0.5
    weights = scores.flatten().softmax(0).reshape(3, 1, 8, 8)
    expected = (weights * pooled[row]).sum((0, 2, 3))
    colour = fusion(content, fusion.remember(near)).colour
    assert colour is not None
    torch.testing.assert_close(colour[row, :, down, right], expected)


@torch.no_grad()
def test_translator_fuses_only_where_there_are_references() -> None:
    config = tiny_config("model.fusion=literal")
    content, near = fusion_inputs()
    guided, plain = Translator(config, guided=True), Translator(config)
    assert guided.fusion is not None and plain.fusion is None
    assert torch.equal(
        guided.fuse(content, near).content, guided.fusion(content, guided.fusion.remember(near)).content
    )
    assert guided.fuse(content, None).content is content
    assert plain.fuse(content, near).content is content


# --- retrieval ---


@torch.no_grad()
def test_a_split_distance_weighs_content_and_style() -> None:
    """|a - b|^2 = (1 - w) |c_a - c_b|^2 + w |s_a - s_b|^2 on unit vectors, whatever the scale of the inputs."""
    config = tiny_config("model.retrieval=split", "model.retrieval_style_weight=0.3")
    network, contents, styles = SplitEncoder(config), torch.randn(2, 32, 8, 8), torch.randn(2, 40)
    embedded = network(contents, styles)
    assert embedded.shape == (2, config.model.retrieval_dim)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(network(7 * contents, 0.1 * styles), embedded)
    content, style = (F.normalize(part, dim=1) for part in embedded.split([60, 40], dim=1))
    distance = 0.7 * (content[0] - content[1]).square().sum() + 0.3 * (style[0] - style[1]).square().sum()
    torch.testing.assert_close((embedded[0] - embedded[1]).square().sum(), distance)
    torch.testing.assert_close(style, F.normalize(styles, dim=1))
    same_style = network(contents, styles[:1].expand(2, -1))
    assert torch.equal(same_style[0, 60:], same_style[1, 60:])


@torch.no_grad()
@pytest.mark.parametrize("form", ["split", "joint"])
def test_mean_colours_add_their_mean_squared_difference_to_a_distance(form: str) -> None:
    form = f"model.retrieval={form}"
    config = tiny_config(form, "model.retrieval_colours=2", "model.retrieval_colour_weight=3")
    network = retrieval_encoder(config).eval()
    images, contents, styles = torch.rand(2, 3, 32, 32), torch.randn(2, 32, 8, 8), torch.randn(2, 40)
    embedded, plain = network.embed(images, contents, styles), network(contents, styles)
    assert embedded.shape == (2, config.embedding_size) == (2, plain.shape[1] + 12)
    colours = images.unflatten(2, (2, 16)).unflatten(4, (2, 16)).mean(dim=(3, 5))
    expected = (plain[0] - plain[1]).square().sum() + 3 * (colours[0] - colours[1]).square().mean()
    torch.testing.assert_close((embedded[0] - embedded[1]).square().sum(), expected)
    without = retrieval_encoder(tiny_config(form)).eval()
    without.load_state_dict(network.state_dict(), strict=False)
    assert torch.equal(without.embed(images, contents, styles), plain)
    assert torch.equal(without.query(images, contents, styles), plain)
    assert without.colour_error(images, styles, images) is None


def test_a_weight_of_colours_that_are_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="retrieval_colour_weight has no effect"):
        load_config("smoke", ["model.retrieval_colour_weight=2"])


def test_another_weight_of_the_colours_is_another_network() -> None:
    one, other = (
        retrieval_encoder(tiny_config("model.retrieval_colours=2", f"model.retrieval_colour_weight={weight}"))
        for weight in (1, 4)
    )
    other.load_state_dict({**one.state_dict(), "colour_scale": other.colour_scale})
    assert network_digest(one) != network_digest(other), "a store for one would be taken for the other"


def test_a_query_has_the_colours_that_are_expected_of_the_translation() -> None:
    """After training on translations that darken the image as far as the style asks."""
    config = tiny_config("model.retrieval=split", "model.retrieval_colours=2")
    network = retrieval_encoder(config)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        images, styles = torch.rand(32, 3, 1, 1).expand(-1, -1, 32, 32), torch.rand(32, 40)
        translations = images - styles[:, :1, None, None]
        error = network.colour_error(images, styles, translations)
        assert error is not None
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    with torch.no_grad():
        contents = torch.randn(32, 32, 8, 8)
        asked = network.query(images, contents, styles)[:, config.model.retrieval_dim :]
        stored = network.embed(translations, contents, styles)[:, config.model.retrieval_dim :]
        unchanged = network.embed(images, contents, styles)[:, config.model.retrieval_dim :]
    assert (asked - stored).square().sum() < 0.02 * (unchanged - stored).square().sum()


def test_a_split_embedding_needs_room_for_the_style() -> None:
    with pytest.raises(
        ConfigError, match="retrieval_dim 40 leaves no room for the content beside 40 numbers of style"
    ):
        load_config("smoke", ["model.retrieval=split", "model.retrieval_dim=40"])


# --- layers ---


@pytest.mark.parametrize("side", [1, 2])
def test_instance_norm_does_not_change_tiny_maps(side: int) -> None:
    x = torch.randn(2, 3, side, side)
    assert torch.equal(instance_norm(x), x)


def test_instance_norm() -> None:
    x = torch.randn(2, 3, 5, 7) * 4 + 9
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x))
    torch.testing.assert_close(instance_norm(x).mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_adaptive_instance_norm_gives_each_channel_its_mean_and_deviation() -> None:
    shift, scale = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    y = AdaptiveInstanceNorm()(torch.randn(2, 3, 9, 9), shift, scale)
    torch.testing.assert_close(y.mean(dim=(2, 3)), shift)
    torch.testing.assert_close(y.std(dim=(2, 3), correction=0), scale, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "kept"), [("plain", True), ("residual", False)])
def test_adain_scale_starts_at_the_mlps_output_or_one_above(scale: str, kept: bool) -> None:
    """With an MLP that says nothing, `plain` blocks add nothing and `residual` ones a normalised map."""
    generator = Generator(tiny_config(f"model.adain_scale={scale}", "model.style_mlp_width=8"))
    for parameter in generator.style_mlp[-1].parameters():
        nn.init.zeros_(parameter)
    seen: list[Tensor] = []
    generator.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    content = torch.randn(1, 32, 8, 8)
    generator(content, torch.randn(1, 40), random_images(1))
    assert torch.equal(seen[0], content) is kept


def test_layer_norm() -> None:
    norm = LayerNorm2d(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 3, 5) * 3 + 2
    torch.testing.assert_close(norm(x), F.group_norm(x, 1, norm.weight, norm.bias))


def test_conv_block_keeps_or_halves_the_size() -> None:
    x = torch.randn(1, 3, 8, 8)
    keep, halve = ConvBlock(3, 4, 7), ConvBlock(3, 4, 4, 2)
    assert keep(x).shape == (1, 4, 8, 8) and halve(x).shape == (1, 4, 4, 4)
    linear = ConvBlock(3, 4, 3, activation="none")
    torch.testing.assert_close(linear(x), conv(x, linear.conv, 1))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4)])
def test_upsample_conv_equals_interpolation_and_convolution(mode: str, shape: tuple[int, int]) -> None:
    """Values, borders included, and the gradients of input, weight and bias."""
    torch.manual_seed(0)
    layer = UpsampleConv(3, 2, mode).double()
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(
        F.interpolate(x, scale_factor=2, mode=mode), layer.conv.weight, layer.conv.bias, padding=2
    )
    found = layer(x)
    torch.testing.assert_close(found, plain)
    inputs = (x, layer.conv.weight, layer.conv.bias)
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(plain, inputs, upstream)
    )


def test_upsample_conv_saves_the_convolution_alone() -> None:
    assert set(UpsampleConv(3, 2, "nearest").state_dict()) == {"conv.weight", "conv.bias"}


def test_the_discriminator_has_a_width_of_its_own() -> None:
    wide, plain = Discriminator(tiny_config("model.discriminator_width=16")), Discriminator(tiny_config())
    assert wide.layers[0].conv.out_channels == 16 and plain.layers[0].conv.out_channels == 8
    assert wide(random_images(2))[0].shape == plain(random_images(2))[0].shape


def test_the_bias_of_the_mask_opens_or_closes_an_untrained_mask() -> None:
    config, image = tiny_config("model.mask_bias=-3"), random_images(2)
    torch.manual_seed(0)
    net = Translator(config)
    assert net(image, torch.zeros(2, config.style_size)).mask.mean() < 0.2
    assert torch.equal(net.generator.heads.bias[:3], Translator(tiny_config()).generator.heads.bias[:3])


def test_embeddings_are_computed_in_fp32_at_every_precision() -> None:
    config = tiny_config()
    torch.manual_seed(0)
    network = JointEncoder(config).eval()
    content, style = torch.randn(2, 32, 8, 8), torch.randn(2, config.style_size)
    seen: list[torch.dtype] = []
    network.head[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(content, style).dtype == torch.float32
    assert seen == [torch.float32]


def test_a_discriminator_that_blurs_does_not_see_a_checkerboard() -> None:
    torch.manual_seed(0)
    plain = Discriminator(tiny_config())
    blurred = Discriminator(tiny_config("model.discriminator_blur=true"))
    blurred.load_state_dict(plain.state_dict())
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = (1 - 2 * ((rows + columns) % 2)).float().expand(1, 3, 32, 32)
    grey = torch.zeros_like(board)
    for found, expected in zip(blurred(board), blurred(grey), strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(plain(board)[0], plain(grey)[0])


# --- fill ---


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 64])
def test_a_fill_starts_with_the_images_own_colours_behind_an_almost_closed_gate(side: int) -> None:
    torch.manual_seed(0)
    fill, image = Fill(8), random_images(2, side)
    picture, features = torch.zeros_like(image), torch.zeros(2, 8, side, side)
    own = F.interpolate(F.avg_pool2d(image, side // 8), size=side, mode="bilinear", align_corners=False)
    made = fill(picture, features, image)
    torch.testing.assert_close(made, own * torch.tensor(-2.0).sigmoid(), atol=0.05, rtol=0)
    assert made.dtype == picture.dtype


@torch.no_grad()
def test_an_open_gate_shows_the_colours_alone_and_a_closed_one_the_picture() -> None:
    fill, image = Fill(8), random_images(2)
    picture, features = random_images(2), torch.zeros(2, 8, 32, 32)
    fill.gate.bias.fill_(100)  # type: ignore[union-attr]
    open_ = fill(picture, features, image)
    assert torch.equal(open_, fill(torch.zeros_like(picture), features, image))
    fill.gate.bias.fill_(-100)  # type: ignore[union-attr]
    assert torch.equal(fill(picture, features, image), picture)


def test_a_generator_fills_only_where_it_is_told_to() -> None:
    assert Translator(tiny_config()).generator.fill is None
    config = tiny_config("model.fill=true")
    torch.manual_seed(0)
    net = Translator(config)
    image = random_images(2)
    made = net(image, torch.randn(2, config.style_size))
    made.raw.square().sum().backward()
    assert net.generator.fill is not None
    assert all(weight.grad is not None and weight.grad.any() for weight in net.generator.fill.parameters())
