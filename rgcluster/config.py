"""Typed, strict configuration: presets in YAML, `--set section.key=value` on top.

A key that is not declared here is refused, with the key that was probably meant.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rgcluster.base.storage import digest_json
from rgcluster.errors import ConfigError, quoted

__all__ = [
    "ClusterConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FacesConfig",
    "GuidanceConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RetrievalConfig",
    "Section",
    "StageConfig",
    "StoreConfig",
    "TranslationConfig",
    "keys_outside_digest",
    "load_config",
    "overridden",
    "parse_override",
    "presets",
    "read_yaml",
    "with_values",
]

Negative = Literal["easy", "medium", "hard", "all"]
Variant = Literal["gmm-unit-continued", "rg-unit-random", "rg-unit"]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class NotInDigest:
    """Marks a setting that changes how work is done or watched, not what it yields.

    A finished or begun stage accepts another value of it.
    """


AnySection = TypeVar("AnySection", bound=Section)


class FacesConfig(Section):
    """The drawn faces that stand in for photographs where no data is given."""

    count: int = Field(4000, ge=8, description="faces to draw")
    seed: int = 0


class DataConfig(Section):
    """What is read from the shards, and how an image becomes a training image."""

    attributes: tuple[str, ...] = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    """The attributes that span the domains, in this order."""
    exclusive: tuple[tuple[str, ...], ...] = (("Black_Hair", "Blond_Hair", "Brown_Hair"),)
    """Groups of which an image has at most one."""
    domains: Literal["independent", "one-hot"] = "independent"
    crop: int = Field(178, ge=0, description="side of the centre crop in source pixels, 0: none")
    image_size: int = Field(128, ge=32, description="side of a training image; a multiple of 32")
    mirror: bool = True
    fraction: float = Field(1.0, gt=0, le=1, description="share of the training rows, by hashed row id")
    balance: bool = Field(
        False, description="train on, and translate to, every domain that occurs equally often"
    )
    rows_per_shard: int = Field(2048, ge=1)
    cache_mib: Annotated[int, NotInDigest] = Field(
        1024, ge=0, description="decoded images are kept in Ray's object store up to this size"
    )

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.image_size % 32:
            raise ValueError(f"image_size {self.image_size} is no multiple of 32")
        if not self.attributes or len(set(self.attributes)) != len(self.attributes):
            raise ValueError("attributes must name at least one attribute, each once")
        for group in self.exclusive:
            for name in group:
                if name not in self.attributes:
                    raise ValueError(f"exclusive names {name!r}, which is not among attributes")
        if self.domains == "one-hot" and len(self.attributes) < 2:
            raise ValueError("one-hot domains need two attributes or more")
        return self


class ModelConfig(Section):
    """The networks of Tables 5 and 8; `width` is the first layer's 64."""

    width: int = Field(64, ge=4, multiple_of=2)
    num_residual_blocks: int = Field(4, ge=1)
    style_dim: int = Field(8, ge=1, description="style dimensions per attribute")
    style_mlp_width: int = Field(256, ge=8)
    attention: bool = True
    skip: bool = False
    """Show the image to G's last layers, too, which then need not paint again what stays; not in the paper."""
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    adain_scale: Literal["residual", "plain"] = "residual"
    """`residual`: 1 + the MLP's output; `plain`: the output itself."""
    retrieval: Literal["joint", "split"] = "joint"
    """R's form. `joint`: the paper's; `split`: unit-length content and style side by side, in `retrieval_dim`."""
    retrieval_style_weight: float = Field(
        0.5, gt=0, lt=1, description="share of the style in a distance of the split R"
    )
    retrieval_dim: int = Field(100, ge=2)
    retrieval_hidden: int = Field(512, ge=8)
    retrieval_dropout: float = Field(0.1, ge=0, lt=1)
    fusion: Literal["residual", "literal", "linear", "attention"] = "residual"
    """`literal`: eq. 9 as printed; `linear`: without its ReLUs; `residual`: c + outer(...), zero at the start.

    `attention`: every place attends to the references' pixels, where E_c finds the same content; not in the paper.
    """
    place_std: float = Field(
        1.5, ge=0, description="deviation of the code of a place at the start, of fusion `attention`"
    )
    layer_norm: Literal["group", "released"] = "group"
    """`released`: the 2021 code's, whose unbiased deviation gets the epsilon."""
    retrieval_norm: Literal["instance", "layer"] = "instance"
    discriminator_layers: int = Field(4, ge=1, le=5)
    discriminator_scales: int = Field(1, ge=1, le=3, description="D sees the image halved, too, where 2")
    discriminator_slope: float = Field(0.01, ge=0, lt=1, description="of D's leaky ReLU")
    discriminator_width: int = Field(0, ge=0, description="width of D's first layer, 0: that of the others")
    class_bias: bool = Field(True, description="whether D's class head has a bias")
    mask_bias: float = 0.0
    """Initial bias of the mask's head: below 0 the untrained mask lets more of the input through."""
    prior_std: float = Field(0.5, gt=0)


class LossConfig(Section):
    """Weights of eq. 2-7 and the readings of the paper that can be chosen."""

    content: float = Field(1.0, ge=0)
    style: float = Field(10.0, ge=0)
    image: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    kl: float = Field(0.1, ge=0)
    domain: float = Field(1.0, ge=0)
    adversarial: float = Field(1.0, ge=0)
    mask: float = Field(0.0, ge=0, description="mean of M in the translation; not in the paper")
    identity: float = Field(
        0.0, ge=0, description="L1(x_hat, x) where the target is the image's own domain; not in the paper"
    )
    own_targets: float = Field(
        0.0, ge=0, lt=1, description="share of the targets that are the image's own domain on purpose"
    )
    appearance: float = Field(
        0.0,
        ge=0,
        description="colours of x_hat against those that fusion `attention` finds; not in the paper",
    )
    recolour: float = Field(
        0.0,
        ge=0,
        description="deviation of a change of colour that a back-translation's answer and reference share",
    )
    """Where the mask repaints and references guide: a colour that no style tells has to come from the reference."""
    gradient_penalty: float = Field(0.0, ge=0, description="R1: squared gradient of D at real images, halved")
    gradient_penalty_every: int = Field(
        8, ge=1, description="steps between two penalties, each so much larger"
    )
    cutout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="side of a square that is cut out of every image that D sees, as a share of the image's",
    )
    """D cannot name a domain by one part of the face alone, so G has to change all that tells the domain."""
    conditional: float = Field(
        0.0, ge=0, description="weight of the domain logits in D's score: D judges an image with its domain"
    )
    mismatched: float = Field(
        0.0,
        ge=0,
        description="weight of D's loss on real images with the target's domain, as if they were fakes",
    )
    adversarial_form: Literal["least-squares", "hinge", "non-saturating"] = "least-squares"
    """`least-squares` is the paper's."""
    perceptual: float = Field(0.0, ge=0, description="needs VGG16 weights; the paper's 0.1")
    style_target: Literal["sampled", "encoded"] = "sampled"
    """What E_s(x_hat) is compared with: the style given to G, or E_s(x) as eq. 3 prints."""
    real_label: Literal[0, 1] = 1
    """D's target for real images; the paper's is 0."""
    posterior: Literal["mean", "sample"] = "mean"
    """The style that reconstruction and cycle get from E_s(x)."""
    mask_in: Literal["all", "translation"] = "all"
    """The passes that blend with their input: all, as in the paper, or the translation alone.

    Reconstruction and cycle reward M = 0, the input unchanged, on which a short training can settle.
    """
    cycle_form: Literal["cycle", "back-translation"] = "cycle"
    """`back-translation`: x_hat is a given image that G has to turn back into x, without a gradient through it and
    with the mask in force, as if it were a photograph of the target domain and x the truth."""
    cycle_style: Literal["own", "mean"] = "own"
    """The style with which x_hat is turned back: E_s(x), as in the paper, or the mean of x's domain."""
    cycle_blend: Literal["translated", "original"] = "translated"
    """The image that the cycle's mask lets through; `original` leaks the answer."""


class OptimizerConfig(Section):
    """Adam, its rate halved every `halve_every` steps (0: never), or along half a cosine.

    The rate is `learning_rate` for a batch of `rate_of_batch` (0: for whatever batch), and follows the batch
    by `rate_rule`: as its square root, in proportion, or not at all.
    """

    learning_rate: float = Field(1e-4, gt=0)
    rate_of_batch: int = Field(0, ge=0)
    rate_rule: Literal["sqrt", "linear", "none"] = "sqrt"
    betas: tuple[float, float] = (0.5, 0.999)
    halve_every: int = Field(200_000, ge=0)
    schedule: Literal["halving", "cosine"] = "halving"
    """`cosine`: from the full rate to a twentieth of it at the stage's last step."""
    gradient_clip: float = Field(0.0, ge=0, description="largest gradient norm, 0: no clipping")


class StageConfig(Section):
    """What every stage has."""

    steps: int = Field(..., ge=1)
    batch_size: int = Field(..., ge=1, description="over all workers")
    report_every: Annotated[int, NotInDigest] = Field(
        25, ge=1, description="steps between lines of metrics.jsonl"
    )
    checkpoint_every: Annotated[int, NotInDigest] = Field(500, ge=1)
    checkpoint_keep: Annotated[int, NotInDigest] = Field(
        2, ge=1, description="newest checkpoints that are kept"
    )
    checkpoint_best: Annotated[str, NotInDigest] = Field(
        "", description="a loss whose best checkpoint is kept as well, e.g. total"
    )
    checkpoint_order: Annotated[Literal["min", "max"], NotInDigest] = "min"
    sample_every: Annotated[int, NotInDigest] = Field(500, ge=1)
    accumulate: Annotated[int, NotInDigest] = Field(
        1, ge=1, description="pieces in which a worker takes its part of a batch"
    )
    loss_limit: Annotated[float, NotInDigest] = Field(
        1e6, gt=0, description="a larger loss stops the training"
    )


class TranslationConfig(StageConfig):
    """Stage 1: GMM-UNIT.

    The mask M comes into force between the steps `attention_from` and `attention_full`: before, G paints
    the whole image. From the start, G may settle on M = 0, the input unchanged, which reconstruction and
    cycle reward.
    """

    steps: int = Field(400_000, ge=1)
    batch_size: int = Field(1, ge=1)
    attention_from: int = Field(0, ge=0)
    attention_full: int = Field(0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: float = Field(0.999, ge=0, lt=1)
    ema_ramp: bool = False
    """Start with a shorter average, min(ema, (1 + step) / (10 + step)), which forgets the first networks."""

    @model_validator(mode="after")
    def _ordered(self) -> TranslationConfig:
        if 0 < self.attention_full < self.attention_from:
            raise ValueError(
                f"attention_full {self.attention_full} comes before attention_from {self.attention_from}"
            )
        return self


class RetrievalConfig(StageConfig):
    """Stage 2: the retrieval network R on generated triplets (eq. 8)."""

    steps: int = Field(40_000, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.01, betas=(0.9, 0.999), halve_every=10_000)
    kind: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    margin: float = Field(0.2, gt=0)
    negatives: tuple[Negative, ...] = ("all",)
    """One network is trained for each; stage 3 uses the last."""
    generators: Annotated[int, NotInDigest] = Field(1, ge=1, description="actors that generate triplets")

    @model_validator(mode="after")
    def _distinct(self) -> RetrievalConfig:
        if not self.negatives or len(set(self.negatives)) != len(self.negatives):
            raise ValueError("negatives must name at least one kind, each once")
        return self


class StoreConfig(Section):
    """The retrieval store."""

    shards: int = Field(2, ge=1)
    images: Literal["all", "train"] = "all"
    """What is retrieved: `all` the images but test and val, with labels or without, or those that train."""
    index: Literal["auto", "exact", "ivf", "hnsw", "ivfpq"] = "auto"
    """How a shard searches; `auto` by the number of vectors, `memory_mib` and `recall`."""
    recall: float = Field(0.95, gt=0, le=1, description="what an approximate index is tuned to reach")
    memory_mib: int | None = Field(None, ge=1, description="what a shard's index may take")
    replicas: Annotated[int, NotInDigest] = Field(1, ge=1, description="processes for each shard")
    timeout_s: Annotated[float, NotInDigest] = Field(60.0, gt=0)


class GuidanceConfig(StageConfig):
    """Stage 3: the translator guided by neighbours from the store."""

    steps: int = Field(100_000, ge=1)
    batch_size: int = Field(1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    ema: float = Field(0.999, ge=0, lt=1)
    ema_ramp: bool = False
    """Start with a shorter average, min(ema, (1 + step) / (10 + step)), which forgets the first networks."""
    retrieval_count: int = Field(3, ge=1, description="M, the neighbours of a query")
    exclude_self: bool = True
    fusion_rate: float = Field(1.0, gt=0, description="learning rate of f, in multiples of the others'")
    own_references: Literal["retrieved", "itself"] = "retrieved"
    """What guides reconstruction and cycle, whose result is the image itself: its neighbours, as in the paper,
    or the image itself, shifted and sometimes mirrored. It shows what the style does not carry, so f learns to
    look."""
    fuse_cycle: bool = True
    """Fuse retrieved content into the cycle's outer pass too (2021 code), or not (eq. 5)."""
    variants: tuple[Variant, ...] = ("rg-unit",)
    """Trained side by side on the same batches; `rg-unit` must be among them."""

    @model_validator(mode="after")
    def _guided(self) -> GuidanceConfig:
        if "rg-unit" not in self.variants:
            raise ValueError("variants must contain 'rg-unit'")
        return self


class EvaluationConfig(Section):
    """Counts and seeds of section 4.1."""

    images: int = Field(10_000, ge=2, description="translations for FID, KID, IS and ACC")
    counterfactuals: int = Field(1000, ge=0, description="translations held against drawn counterfactuals")
    diversity_inputs: int = Field(100, ge=1)
    diversity_samples: int = Field(10, ge=2)
    queries: int = Field(2000, ge=1, description="for P@10")
    seeds: tuple[int, ...] = (0, 1, 2)
    classifier_steps: int = Field(2000, ge=1)
    extractor: Literal["auto", "inception-v3-compat", "efficientnet-lite0"] = "auto"
    perceptual: Literal["auto", "lpips-alex", "lpips-vgg", "efficientnet-lite0"] = "auto"
    """What diversity is measured with; `auto`: LPIPS on AlexNet where its weights are found."""
    figure_rows: int = Field(8, ge=1)


class ClusterConfig(Section):
    """How the work is laid over the machines."""

    workers: int = Field(0, ge=0, description="Ray Train workers, 0: one per GPU, or one on CPUs")
    min_workers: int = Field(
        0, ge=0, description="fewer workers do while machines are missing; 0: always as many"
    )
    threads: int = Field(0, ge=0, description="torch threads per worker, 0: the cores divided by the workers")
    gpu: Literal["auto", "never", "always"] = "auto"
    """`auto`: where the cluster has some; `always`: nothing starts without."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "contiguous", "channels-last"] = "auto"
    convolutions: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions are computed; `auto` is Winograd's on a CPU in fp32 from 128 channels on."""
    compile: Literal["auto", "never", "always"] = "auto"
    """Whether torch compiles the networks, each on its own; `auto` does so on a GPU."""
    max_failures: int = Field(3, ge=0, description="worker failures a stage survives")
    collective_timeout_s: int = Field(600, gt=0, description="longest wait of a worker for the others")
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where losses go besides `metrics.jsonl`; the last two are extras to install."""

    @model_validator(mode="after")
    def _elastic(self) -> ClusterConfig:
        if self.min_workers and not self.workers:
            raise ValueError("min_workers needs workers, the most there may be")
        if self.min_workers > max(self.workers, 1):
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self


class Config(Section):
    """Everything that a run depends on."""

    preset: str = "paper"
    seed: int = 0
    faces: FacesConfig = FacesConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    translation: TranslationConfig = TranslationConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    store: StoreConfig = StoreConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _room_for_content(self) -> Config:
        if self.model.retrieval == "split" and self.model.retrieval_dim <= self.style_size:
            raise ValueError(
                f"model.retrieval_dim {self.model.retrieval_dim} leaves no room for the content beside "
                f"{self.style_size} numbers of style"
            )
        return self

    @model_validator(mode="after")
    def _effective_losses(self) -> Config:
        """Refuse a weight that nothing would be multiplied with."""
        for name in ("appearance", "recolour"):
            if getattr(self.translation.loss, name):
                raise ValueError(
                    f"translation.loss.{name} has no effect: stage 1 has no references; set guidance.loss.{name}"
                )
        guidance = self.guidance
        if guidance.loss.appearance and self.model.fusion != "attention":
            raise ValueError(
                f"guidance.loss.appearance = {guidance.loss.appearance:g} has no effect with model.fusion = "
                f"{self.model.fusion}; set model.fusion=attention, or guidance.loss.appearance=0"
            )
        if guidance.loss.recolour and (
            guidance.loss.cycle_form != "back-translation" or guidance.own_references != "itself"
        ):
            raise ValueError(
                f"guidance.loss.recolour = {guidance.loss.recolour:g} has no effect with guidance.loss.cycle_form = "
                f"{guidance.loss.cycle_form} and guidance.own_references = {guidance.own_references}; set "
                "back-translation and itself, or guidance.loss.recolour=0"
            )
        return self

    @property
    def num_attributes(self) -> int:
        return len(self.data.attributes)

    @property
    def style_size(self) -> int:
        """Length of a style vector: n x 8, 40 for five attributes."""
        return self.num_attributes * self.model.style_dim

    def digest(self, *sections: str) -> str:
        """Return the digest of the named sections."""
        dump = self.model_dump(mode="json")
        return digest_json({name: dump[name] for name in ("seed", *sections)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, source: str) -> Config:
        return _validated(cls, _parse(text, source), source)


def keys_outside_digest(model: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Return the dotted keys of a configuration that are marked with `NotInDigest`."""
    keys = set()
    for name, field in model.model_fields.items():
        if NotInDigest in field.metadata:
            keys.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= keys_outside_digest(field.annotation, f"{prefix}{name}.")
    return keys


def presets() -> list[str]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("rgcluster") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_config(preset: str, overrides: Iterable[str] = ()) -> Config:
    """Return preset `preset` with `section.key=value` overrides on top; ConfigError names the fault."""
    names = presets()
    if preset not in names:
        raise ConfigError(f"no preset {preset!r}{_meant(preset, names)}; there are {', '.join(names)}")
    text = (resources.files("rgcluster") / "presets" / f"{preset}.yaml").read_text()
    tree = _parse(text, f"preset {preset}")
    tree["preset"] = preset
    return overridden(Config, tree, overrides, f"preset {preset}")


def overridden(
    model: type[AnySection], tree: Mapping[str, Any], overrides: Iterable[str], source: str
) -> AnySection:
    """Return the section that `tree` describes, with `section.key=value` overrides on top."""
    changed = copy.deepcopy(dict(tree))
    for override in (overrides := list(overrides)):
        _assign(changed, *parse_override(override))
    return _validated(model, changed, "--set" if overrides else source)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return a YAML file's tree of keys; ConfigError where it cannot be read."""
    try:
        return _parse(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or 'not a text file'}") from None


def with_values(config: Config, values: Mapping[str, Any], source: str = "--set") -> Config:
    """Return the configuration with `section.key` values in place of its own; ConfigError names the fault."""
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        _assign(tree, key, value)
    return _validated(Config, tree, source)


def parse_override(override: str) -> tuple[str, Any]:
    """Return key and value of `section.key=value`; ConfigError where it is something else."""
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected section.key=value")
    return key.strip(), _scalar(value)


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 1e-4 as a string: people who type it mean a number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected sections of keys and values")
    return tree


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    node = tree
    for name in path:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, not a section")
    node[last] = value


def _validated(model: type[AnySection], tree: Mapping[str, Any], source: str) -> AnySection:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {'; '.join(_explain(fault, model) for fault in error.errors())}"
        ) from None


def _explain(fault: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "configuration"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {path!r}{_meant(path, _all_keys(model))}"
    message = fault["msg"].removeprefix("Value error, ")
    return (
        f"{path} = {quoted(fault['input'])}: {message[0].lower()}{message[1:]}" if fault["loc"] else message
    )


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _meant(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:  # perhaps the right key in the wrong section
        last = word.rsplit(".", 1)[-1]
        matches = difflib.get_close_matches(last, [key.rsplit(".", 1)[-1] for key in known], n=1, cutoff=0.75)
        close = [key for key in known if matches and key.rsplit(".", 1)[-1] == matches[0]][:1]
    return f": did you mean {close[0]!r}?" if close else ""
