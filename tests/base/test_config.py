"""Configuration: presets, strictness, `--set`, messages, digests."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from rgcluster.base.placement import Resources
from rgcluster.config import Config, LossConfig, keys_outside_digest, load_config, presets
from rgcluster.errors import ConfigError


def fault(preset: str, *overrides: str) -> str:
    """The message of the ConfigError, which is one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(preset, overrides)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# --- presets ---


def test_presets() -> None:
    assert {"celeba128", "demo", "paper", "smoke"} <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_preset_loads_and_survives_the_round_trip(name: str) -> None:
    config = load_config(name)
    assert config.preset == name
    assert Config.from_yaml(config.to_yaml(), "config.yaml") == config


def test_paper_states_the_papers_values() -> None:
    config = load_config("paper")
    data, model = config.data, config.model
    assert data.attributes == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    assert (data.domains, data.crop, data.image_size, data.mirror) == ("independent", 178, 128, True)
    assert (model.width, model.num_residual_blocks, model.style_dim, config.style_size) == (64, 4, 8, 40)
    assert (model.upsampling, model.attention, model.fusion, model.prior_std) == (
        "bilinear",
        True,
        "literal",
        0.5,
    )
    assert (model.retrieval_dim, model.retrieval_hidden, model.retrieval_dropout) == (100, 512, 0.1)
    for stage in (config.translation, config.guidance):
        loss, optimizer = stage.loss, stage.optimizer
        assert (loss.content, loss.style, loss.image, loss.cycle, loss.kl) == (1, 10, 1, 10, 0.1)
        assert (loss.domain, loss.adversarial, loss.perceptual) == (1, 1, 0.1)
        assert (loss.style_target, loss.posterior, loss.cycle_blend) == ("sampled", "mean", "translated")
        assert (loss.real_label, loss.mask_in) == (0, "all")
        assert (optimizer.learning_rate, optimizer.betas, optimizer.halve_every) == (
            1e-4,
            (0.5, 0.999),
            200_000,
        )
        assert optimizer.gradient_clip == 0
        assert (stage.batch_size, stage.ema) == (1, 0.999)
    assert config.translation.attention_from == config.translation.attention_full == 0
    retrieval = config.retrieval
    assert (retrieval.batch_size, retrieval.margin) == (32, 0.2)
    assert (retrieval.kind, retrieval.momentum) == ("sgd", 0.9)
    assert (retrieval.optimizer.learning_rate, retrieval.optimizer.halve_every) == (0.01, 10_000)
    assert retrieval.negatives == ("easy", "medium", "hard", "all")
    assert (config.guidance.retrieval_count, config.guidance.exclude_self) == (3, True)
    assert config.guidance.fuse_cycle is False
    evaluation = config.evaluation
    assert evaluation.images == 10_000
    assert (evaluation.diversity_inputs, evaluation.diversity_samples) == (100, 10)


def test_the_defaults_are_the_papers_except_for_the_presets_keys() -> None:
    default, paper = Config().model_dump(), load_config("paper").model_dump()
    changed = {section for section in default if default[section] != paper[section]}
    assert changed == {"model", "translation", "retrieval", "guidance"}


def test_unknown_preset_names_the_nearest() -> None:
    message = fault("celeba")
    assert "did you mean 'celeba128'" in message and "smoke" in message


# --- strictness ---


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("translation.optimizer.learning_rat", "translation.optimizer.learning_rate"),
        ("translation.learning_rate", "translation.optimizer.learning_rate"),
        ("data.atributes", "data.attributes"),
        ("modle.width", "model"),
        ("model.widht", "model.width"),
        ("guidance.retrieval_cuont", "guidance.retrieval_count"),
        ("retrieval.loss_margin", "retrieval.margin"),
        ("sed", "seed"),
    ],
)
def test_the_error_for_a_misspelt_key_suggests_the_right_one(key: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in fault("smoke", f"{key}=1")


def test_unlike_anything() -> None:
    message = fault("smoke", "xyzzy=1")
    assert "unknown key 'xyzzy'" in message and "did you mean" not in message


def test_a_file_of_another_version_names_itself() -> None:
    with pytest.raises(ConfigError, match=r"^old/config.yaml: unknown key 'data.colour'"):
        Config.from_yaml("data: {colour: red}", "old/config.yaml")


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [", "data: {image_size: 40}"])
def test_bad_yaml_is_one_line_that_names_the_file(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(text, "run/config.yaml")
    assert re.fullmatch(r"run/config\.yaml: .+", str(caught.value))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "guidance.loss.appearance=10",
            ["no effect with model.fusion = residual; set model.fusion=attention"],
        ),
        (
            "guidance.loss.pasted=0.3",
            ["no effect with guidance.loss.cycle_form = cycle", "set back-translation"],
        ),
        ("guidance.mask_contrast=0", ["greater than 0"]),
        ("guidance.loss.domain_of={Mael: 2}", ["names 'Mael'", "neither one of data.attributes (Black_Hair"]),
        ("guidance.loss.domain_of={Male: -1}", ["domain_of.Male = -1", "greater than or equal to 0"]),
        ("translation.loss.appearance=1", ["stage 1 has no references; set guidance.loss.appearance"]),
        (
            "translation.loss.pasted=1",
            ["no effect with translation.loss.cycle_form = cycle", "or translation.loss.pasted=0"],
        ),
        (
            "translation.attention_from=12",
            ["not in force after translation.steps = 12", "set translation.attention_from=4 and"],
        ),
        ("translation.attention_full=13", ["attention_full = 13: the mask is not in force"]),
        ("evaluation.seeds=[]", ["evaluation", "seeds must name at least one"]),
        ("evaluation.seeds=[0,0]", ["each once"]),
        ("evaluation.images=3", ["evaluation.images", "greater than or equal to 4"]),
        (f"model.fusion={'x' * 9000}", ["model.fusion", "(9002 characters)"]),
        ("model.width=0", ["model.width", "0", "greater than or equal to 4"]),
        ("model.width=9", ["model.width", "multiple of 2"]),
        ("model.width=wide", ["model.width", "'wide'", "integer"]),
        ("model.upsampling=cubic", ["model.upsampling", "'cubic'", "'nearest'"]),
        ("data.image_size=48", ["image_size 48", "multiple of 32"]),
        ("data.fraction=0", ["data.fraction", "greater than 0"]),
        ("data.fraction=1.5", ["data.fraction", "less than or equal to 1"]),
        ("data.attributes=[Male,Young]", ["'Black_Hair'", "not among attributes"]),
        ("data.attributes=[]", ["attributes must name at least one"]),
        ("data.attributes=[Black_Hair,Blond_Hair,Brown_Hair,Male,Male]", ["attributes", "once"]),
        ("translation.optimizer.learning_rate=-1", ["learning_rate", "greater than 0"]),
        ("translation.optimizer.learning_rate=nan", ["learning_rate"]),
        ("translation.optimizer.learning_rate=inf", ["learning_rate", "finite"]),
        ("translation.loss.cycle=.inf", ["loss.cycle", "finite"]),
        ("translation.loss.real_label=2", ["real_label"]),
        ("retrieval.negatives=[]", ["negatives"]),
        ("retrieval.negatives=[easy,easy]", ["negatives", "once"]),
        ("retrieval.negatives=[soft]", ["negatives", "'soft'"]),
        ("guidance.variants=[rg-unit-random]", ["rg-unit"]),
        ("cluster.precision=fp16", ["precision", "'fp16'"]),
        ("data=3", ["data"]),
        ("seed.x=1", ["seed"]),
        ("translation.steps.x=1", ["steps is a value, not a section"]),
        ("translation.steps", ["expected section.key=value"]),
    ],
)
def test_value_errors_are_one_line(override: str, words: list[str]) -> None:
    message = fault("smoke", override)
    for word in words:
        assert word in message


def test_a_preset_weighs_attributes_that_a_run_may_not_have() -> None:
    config = load_config("demo", ["data.attributes=[Male,Smiling]", "data.exclusive=[]"])
    assert config.guidance.loss.domain_of["Young"] < 1 < config.guidance.loss.domain_of["Male"]


def test_what_works_through_the_mask_needs_one() -> None:
    message = fault("demo", "guidance.mask_contrast=3", "model.attention=false")
    remedy = (
        "translation.loss.mask=0, translation.loss.pasted=0, guidance.mask_contrast=1, guidance.loss.mask=0, "
        "guidance.loss.pasted=0"
    )
    assert "with model.attention = false G has no mask" in message and remedy in message
    load_config("demo", ["model.attention=false", *remedy.split(", ")])


def test_every_fault_is_named() -> None:
    message = fault("smoke", "model.width=0", "model.wdith=8", "data.crop=-1")
    assert "model.width" in message and "model.wdith" in message and "data.crop" in message


def test_configurations_cannot_be_changed() -> None:
    config = load_config("smoke")
    with pytest.raises(ValidationError):
        config.model.width = 16  # type: ignore[misc]


# --- --set ---


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4", " 1e-4"])
def test_numbers_as_people_write_them(text: str) -> None:
    config = load_config("smoke", [f"translation.optimizer.learning_rate={text}"])
    assert config.translation.optimizer.learning_rate == 1e-4


def test_scientific_notation_for_a_whole_number() -> None:
    assert load_config("smoke", ["translation.steps=2e3"]).translation.steps == 2000
    assert "translation.steps" in fault("smoke", "translation.steps=1.5")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True), ("no", False)])
def test_booleans(text: str, value: bool) -> None:
    assert load_config("smoke", [f"model.attention={text}"]).model.attention is value


def test_lists() -> None:
    config = load_config(
        "smoke",
        ["data.attributes=[Male, Young]", "data.exclusive=[]", "translation.optimizer.betas=[0.9, 0.99]"],
    )
    assert config.data.attributes == ("Male", "Young") and config.data.exclusive == ()
    assert config.style_size == 16 and config.num_attributes == 2
    assert config.translation.optimizer.betas == (0.9, 0.99)


def test_the_last_override_wins_and_the_preset_stays_beneath() -> None:
    config = load_config("smoke", ["model.width=16", "model.width=32", " seed = 7 "])
    assert (config.model.width, config.seed) == (32, 7)
    assert config.model.retrieval_hidden == load_config("smoke").model.retrieval_hidden


def test_a_value_may_hold_an_equals_sign() -> None:
    assert "'a=b'" in fault("smoke", "model.upsampling=a=b")


# --- digests ---


def test_digest_is_stable() -> None:
    first, again = load_config("smoke"), load_config("smoke")
    assert first.digest("model", "data") == again.digest("model", "data") == first.digest("data", "model")
    assert re.fullmatch("[0-9a-f]{16}", first.digest("model"))


@pytest.mark.parametrize("override", ["model.width=16", "model.prior_std=0.4", "seed=1"])
def test_digest_follows_its_sections_and_the_seed(override: str) -> None:
    assert load_config("smoke", [override]).digest("model") != load_config("smoke").digest("model")


def test_digest_ignores_other_sections() -> None:
    changed = load_config("smoke", ["translation.steps=99", "cluster.workers=2"])
    assert changed.digest("model", "data") == load_config("smoke").digest("model", "data")
    assert changed.digest("translation") != load_config("smoke").digest("translation")
    assert load_config("smoke").digest("model") != load_config("smoke").digest("data")


def test_elastic_workers() -> None:
    config = load_config("smoke", ["cluster.workers=4", "cluster.min_workers=2"]).cluster
    assert Resources(config.workers, 1.0, 1, False, config.min_workers).range == (2, 4)
    assert Resources(4, 1.0, 1, False).range == 4
    for wrong in (["cluster.min_workers=2"], ["cluster.workers=1", "cluster.min_workers=2"]):
        with pytest.raises(ConfigError, match="min_workers"):
            load_config("smoke", wrong)


def test_the_keys_outside_a_stages_digest() -> None:
    """A change of this set changes which settings a begun run accepts: say so in the changelog."""
    stage = {
        "report_every", "checkpoint_every", "checkpoint_keep", "checkpoint_best", "checkpoint_order", "sample_every",
        "accumulate", "loss_limit",
    }  # fmt: skip
    expected = {f"{name}.{key}" for name in ("translation", "retrieval", "guidance") for key in stage}
    assert keys_outside_digest() == expected | {
        "data.cache_mib", "retrieval.generators", "store.replicas", "store.timeout_s",
    }  # fmt: skip


def test_attribute_docstrings_reach_the_schema() -> None:
    properties = LossConfig.model_json_schema()["properties"]
    assert "real images" in properties["real_label"]["description"]
