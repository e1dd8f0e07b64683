"""Recipes: inheritance, overrides, and errors that name the key and the remedy."""

import pytest
from pydantic import BaseModel, ConfigDict

from infra.errors import UsageError
from infra.recipe import Recipe, difference, digest, load_recipe, shipped_recipes


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 3
    inner: Inner | None = None


def write(path, text):
    path.write_text(text)
    return str(path)


BASE = "name: base\ntask: super_resolution\nscale: 4\ntraining: {steps: 5, inner: {rate: 0.5}}\n"


def test_extends_merges_mappings_and_overrides_win(tmp_path):
    base = write(tmp_path / "base.yaml", BASE)
    child = write(tmp_path / "child.yaml", f"extends: {base}\nname: child\ntraining: {{inner: {{rate: 0.1}}}}\n")
    recipe = load_recipe(child, ["training.steps=7"])
    assert (recipe.name, recipe.task, recipe.scale) == ("child", "super_resolution", 4)
    assert recipe.section("training", Section) == Section(steps=7, inner=Inner(rate=0.1))
    assert load_recipe(base).section("training", Section).steps == 5


def test_resolved_fills_defaults(tmp_path):
    recipe = load_recipe(write(tmp_path / "r.yaml", "name: r\ntask: deblurring\nscale: 1\n"))
    assert recipe.resolved(training=Section)["training"] == {"steps": 3, "inner": None}


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (None, [], "recipe 'nowhere' does not exist; shipped recipes: "),
        ("- a\n- b\n", [], "not a mapping"),
        ("name: [", [], "not valid YAML"),
        (BASE + "trainng: {}\n", [], "unknown section 'trainng'; valid sections: name, task"),
        ("task: deblurring\nscale: 1\n", [], "'name' is missing"),
        (BASE.replace("scale: 4", "scale: 3"), [], "scale: 3 is not supported"),
        (BASE, ["scale=true"], "scale: True is not supported; choose 1, 2, 4 or 8"),
        (BASE, ["scale=4.0"], "scale: 4.0 is not supported"),
        (BASE, ["name=2024-01-01"], "name: 2024-01-01 is read as a YAML date; quote it"),
        (BASE, ["training.a=!!binary aGk="], "training.a: b'hi' is read as a YAML bytes; quote it"),
        (BASE, ["training.a=[!!set {x}]"], "training.a: {'x'} is read as a YAML set"),
        (BASE, ["training.a=.nan"], "training.a: nan is no number that can be stored"),
        (BASE + "1: a\n", [], "top level: the key 1 is no text; quote it"),
        (BASE + "shards: {1: 2}\n", [], "shards: the key 1 is no text; quote it"),
        (BASE.replace("super_resolution", "magic"), [], "task: 'magic' is unknown; choose one of super_resolution"),
        (BASE, ["training.steps"], "is not of the form section.key=value"),
        (BASE, ["trainin.steps=1"], "unknown section; valid sections"),
        (BASE, ["name.x=1"], "'name' is a value"),
    ],
)
def test_bad_recipes_name_what_and_the_remedy(tmp_path, text, overrides, expected):
    ref = "nowhere" if text is None else write(tmp_path / "r.yaml", text)
    with pytest.raises(UsageError) as raised:
        load_recipe(ref, overrides)
    assert expected in str(raised.value)


def test_a_file_that_is_no_text_or_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    path.write_bytes(BASE.encode("utf-16"))
    with pytest.raises(UsageError, match="is not UTF-8 text; save it as UTF-8"):
        load_recipe(str(path))
    with pytest.raises(UsageError, match=r"'x+' does not exist; shipped recipes: "):
        load_recipe("x" * 300)
    monkeypatch.setattr(type(path), "read_text", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\); correct its path or rights"):
        load_recipe(str(path))


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.stepz=1", "training.stepz: unknown key; valid keys: steps, inner"),
        ("training.inner.rat=1", "training.inner.rat: unknown key; valid keys: rate"),
        ("training.steps=many", 'training.steps: "many" is not accepted'),
    ],
)
def test_bad_keys_list_the_valid_ones(tmp_path, override, expected):
    recipe = load_recipe(write(tmp_path / "r.yaml", BASE), [override])
    with pytest.raises(UsageError) as raised:
        recipe.section("training", Section)
    assert expected in str(raised.value)


def test_a_recipe_cannot_extend_itself(tmp_path):
    path = tmp_path / "loop.yaml"
    write(path, f"extends: {path}\nname: loop\n")
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(str(path))


def test_shipped_recipes_load():
    assert "realsr_x4" in shipped_recipes()
    for name in shipped_recipes():
        assert isinstance(load_recipe(name), Recipe)


def test_digest_ignores_key_order_and_difference_names_leaves():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: 2 -> 3"]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shard_fits_into_the_memory_of_its_readers(name):
    """They hold one whole, and a worker shall stay below 1.5 GB. Pixels as they are; PNG makes them fewer bytes."""
    recipe = load_recipe(name)
    shards = recipe.raw["shards"]
    pixels = shards["hq_size"] ** 2 * (1 + 1 / recipe.scale**2)
    assert 3 * pixels * shards["samples_per_shard"] < 400e6
