"""Gates, promotion and rollback against a real MLflow store (SQLite)."""

import contextlib
import dataclasses
import itertools
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from evaluation import promotion as promotion_module
from evaluation import promotion_lock
from evaluation.config import EvaluationConfig, PromotionConfig
from evaluation.gates import Reference, check_gates, passed
from evaluation.promotion import promote, roll_back
from evaluation.promotion_lock import lock_name
from evaluation.registry import EVALUATION_TAG, alias_of, champion_of, client, version_tags
from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from tests.evaluation.logged import CONFIG, NAME, log_version, make_rows, make_summary, new_version

GATES = ["promotion.min_images=5", "promotion.max_runtime_ratio=null", "evaluation.metrics=[psnr_y,ssim_y]"]


def gates_of(rows, **promotion):
    config = PromotionConfig.model_validate({"min_images": 10, **promotion})
    return check_gates(config, CONFIG, make_summary(rows, "1"), rows, None)


def test_few_photos_refuse_however_many_images_they_give():
    rows = make_rows({"bicubic": 0.0, "model": 1.0}, num_images=40)
    rows["group"] = rows["key"].str[-1].map(lambda digit: f"photo{int(digit) % 6}")
    photos, ssim = (gates_of(rows, gates=[{"metric": "ssim_y"}])[at] for at in (1, -1))
    assert (photos.gate, photos.measured, photos.required, photos.passed) == ("photos", "6", ">= 10", False)
    assert (ssim.measured, ssim.passed) == ("measured on 6 photos", False)
    assert passed(gates_of(rows, gates=[{"metric": "ssim_y"}], min_photos=6))


@pytest.mark.parametrize(("gain", "margin", "expected"), [(0.5, 0.0, True), (-0.1, -0.2, True), (-0.5, -0.2, False)])
def test_gate_compares_the_low_end_with_the_bound(gain, margin, expected):
    rows = make_rows({"bicubic": 0.0, "model": gain})
    results = gates_of(rows, gates=[{"metric": "psnr_y", "min_improvement": margin}])
    assert passed(results) is expected


def test_a_better_mean_is_not_enough_when_the_interval_holds_zero():
    rows = make_rows({"bicubic": 0.0, "model": 0.02})
    strict, lenient = (
        gates_of(rows, gates=[{"metric": "psnr_y", "bound": bound}])[-1] for bound in ("interval", "mean")
    )
    assert (strict.passed, lenient.passed) == (False, True)


def test_few_failed_or_unmeasured_images_refuse():
    rows = make_rows({"bicubic": 0.0, "model": 1.0}, num_images=12, failed=3).assign(ssim_y=None)
    results = {result.gate: result for result in gates_of(rows, gates=[{"metric": "psnr_y"}, {"metric": "ssim_y"}])}
    assert not results["test images"].passed
    assert results["test images"].measured == "9"
    assert not results["failed images"].passed
    assert results["SSIM-Y improvement over bicubic"].measured == "not measured"
    assert not results["SSIM-Y improvement over bicubic"].passed


def test_images_without_a_value_do_not_drop_out_in_favour_of_the_model():
    rows = make_rows({"bicubic": 0.0, "model": 1.0}, num_images=30)
    of_model = rows.index[rows["method"] == "model"]
    rows.loc[of_model[2:], "ssim_y"] = None
    ssim = gates_of(rows, gates=[{"metric": "ssim_y"}])[-1]
    assert (ssim.passed, ssim.measured) == (False, "no value for 28 images that bicubic has one for")
    rows.loc[rows["key"].isin(rows["key"][of_model[2:]]), "ssim_y"] = None  # bicubic has none either
    ssim = gates_of(rows, gates=[{"metric": "ssim_y"}])[-1]
    assert (ssim.passed, ssim.measured) == (False, "measured on 2 images")
    assert ssim.required.endswith("on >= 10")


def test_a_gate_on_a_metric_that_was_not_evaluated_is_no_refusal(recipe, tmp_path, mlflow_store):
    version = log_version(recipe, tmp_path, gain=1.0)
    asks_for_more = load_recipe("realsr_x4", [*GATES, "promotion.gates=[{metric: niqe}]"])
    with pytest.raises(UsageError, match=r"gates: 'niqe' was not measured; evaluate with evaluation.metrics including"):
        promote(asks_for_more, NAME, version)
    assert "promotion.status" not in version_tags(NAME, version)


def test_a_champion_that_was_not_timed_is_no_refusal():
    rows = make_rows({"bicubic": 0.0, "model": 1.0})
    config = PromotionConfig.model_validate({"min_images": 10, "gates": [{"metric": "psnr_y"}], "max_runtime_ratio": 2})
    champion = Reference("champion v1", rows[rows["method"] == "model"], None)
    with pytest.raises(UsageError, match=r"champion v1 was not timed beside this version; run .* with a new --out"):
        check_gates(config, CONFIG, make_summary(rows, "2"), rows, champion)
    timed = dataclasses.replace(champion, seconds_per_megapixel=1000.0)
    assert check_gates(config, CONFIG, make_summary(rows, "2"), rows, timed)[-1].passed


def test_unknown_metric_in_a_gate_names_the_valid_ones():
    recipe = load_recipe("realsr_x4", ["promotion.gates=[{metric: lpips}]"])
    with pytest.raises(UsageError, match=r"promotion.gates.0.metric: metric 'lpips' is unknown; valid metrics: psnr,"):
        recipe.section("promotion", PromotionConfig)


def test_wrong_evaluation_settings_are_named():
    recipe = load_recipe("realsr_x4", ["evaluation.tile_overlap=400"])
    with pytest.raises(UsageError, match="tile_overlap is 400; give at most half"):
        recipe.section("evaluation", EvaluationConfig)


def test_promotion_refusal_and_rollback(recipe, tmp_path, mlflow_store):
    first = log_version(recipe, tmp_path, gain=0.5)
    decision = promote(recipe, NAME, first, reason="the first one")
    assert decision.promoted
    assert champion_of(NAME) == first
    assert alias_of(NAME, "previous") is None
    tags = version_tags(NAME, first)
    assert tags["promotion.status"] == "promoted"
    assert tags["promotion.reason"] == "the first one"
    assert tags["promotion.by"]
    assert tags["promotion.at"].startswith("20")
    assert tags["promotion.evaluation_run_id"] == tags[EVALUATION_TAG]

    worse = log_version(recipe, tmp_path, gain=0.2)  # better than bicubic, worse than the champion's own evaluation
    refused = promote(recipe, NAME, worse)
    assert not refused.promoted
    assert champion_of(NAME) == first
    assert version_tags(NAME, worse)["promotion.status"] == "refused"
    assert f"champion v{first}" in refused.results[-1].gate
    judged_on = [version_tags(NAME, version)[EVALUATION_TAG] for version in (worse, first)]
    assert [(found.data, found.run_id) for found in refused.evidence] == [("pairs", run_id) for run_id in judged_on]

    better = log_version(recipe, tmp_path, gain=1.5, champion=first)
    assert promote(recipe, NAME, better).promoted
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (better, first)
    tags = version_tags(NAME, better)
    assert promote(recipe, NAME, better).results == (), "promoting the champion again changes nothing"
    assert version_tags(NAME, better) == tags
    for key in ("promotion.evaluation_run_id", "promotion.champion_evaluation_run_id"):
        assert client().get_run(tags[key]).data.tags["promotion.decision"] == f"{NAME} version {better} promoted"

    best = log_version(recipe, tmp_path, gain=3.0)
    assert promote(recipe, NAME, best).promoted
    with pytest.raises(UsageError, match=f"version: {better} is not the champion"):
        roll_back(NAME, version=better)
    assert roll_back(NAME, "it flickers", version=best) == (best, better)
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (better, first)
    assert version_tags(NAME, best)["rollback.reason"] == "it flickers"
    assert roll_back(NAME) == (better, first)
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (first, None)
    with pytest.raises(UsageError, match="nothing to roll back to"):
        roll_back(NAME)


def test_different_protocols_refuse_to_be_compared(recipe, tmp_path, mlflow_store):
    promote(recipe, NAME, log_version(recipe, tmp_path, gain=0.5, test_set="a"))
    other = log_version(recipe, tmp_path, gain=2.0, test_set="b")
    with pytest.raises(UsageError, match=r"different protocols and cannot be compared \(test_set.digest:"):
        promote(recipe, NAME, other)


def test_dry_run_changes_nothing(recipe, tmp_path, mlflow_store):
    version = log_version(recipe, tmp_path, gain=1.0)
    assert promote(recipe, NAME, version, dry_run=True).promoted
    assert champion_of(NAME) is None
    assert "promotion.status" not in version_tags(NAME, version)


def test_two_promotions_at_once_one_is_told(recipe, tmp_path, mlflow_store, monkeypatch):
    mine, theirs = (log_version(recipe, tmp_path, gain=1.0) for _ in range(2))
    check = promotion_module.check_gates

    def check_while_another_promotes(*arguments):
        client().set_registered_model_alias(NAME, "champion", theirs)
        return check(*arguments)

    monkeypatch.setattr(promotion_module, "check_gates", check_while_another_promotes)
    with pytest.raises(JobError, match=f"version {theirs} became the champion while version {mine} was being checked"):
        promote(recipe, NAME, mine)
    assert champion_of(NAME) == theirs
    assert "promotion.status" not in version_tags(NAME, mine)
    assert not client().search_registered_models(f"name='{lock_name(NAME)}'"), "the lock is let go"


def test_the_lock_of_a_process_that_is_gone_is_taken_over(recipe, tmp_path, mlflow_store, monkeypatch, capsys):
    version = log_version(recipe, tmp_path, gain=1.0)
    client().create_registered_model(lock_name(NAME), tags={"lock.holder": "ann on host7, process 12"})
    with monkeypatch.context() as patch:
        patch.setattr(promotion_lock, "GIVE_UP_SECONDS", 0.1)
        with pytest.raises(JobError, match=r"by ann on host7, process 12; run the same"):
            promote(recipe, NAME, version)
    assert champion_of(NAME) is None
    monkeypatch.setattr(promotion_lock, "STALE_SECONDS", 0.3)
    assert promote(recipe, NAME, version).promoted
    assert "took over the lock of ann on host7, process 12" in capsys.readouterr().err
    assert [model.name for model in client().search_registered_models()] == [NAME]


def test_an_alias_moved_by_hand_the_same_moment_is_told(recipe, tmp_path, mlflow_store, monkeypatch):
    mine, theirs = (log_version(recipe, tmp_path, gain=1.0) for _ in range(2))
    set_alias = MlflowClient.set_registered_model_alias

    def set_alias_and_lose(self, name, alias, version):
        set_alias(self, name, alias, version)
        set_alias(self, name, "champion", theirs)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_alias_and_lose)
    with pytest.raises(JobError, match=f"version {theirs} became the champion while the alias was given to .* by some"):
        promote(recipe, NAME, mine)


class Killed(BaseException):
    """Stands for SIGKILL: here it passes through every write, those that tidy up among them."""


@pytest.fixture
def killed_at(monkeypatch):
    """Gives a context in which the n-th write to the registry, and every later one, is not made any more."""
    names = [name for name in vars(MlflowClient) if name.startswith(("set_", "delete_", "create_"))]
    real = {name: getattr(MlflowClient, name) for name in names}

    @contextlib.contextmanager
    def dying(number):
        writes = itertools.count(1)

        def guarded(name):
            def write(*arguments, **options):
                if next(writes) >= number:
                    raise Killed
                return real[name](*arguments, **options)

            return write

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(MlflowClient, name, guarded(name))
            patch.setattr(promotion_lock, "STALE_SECONDS", 0.3)
            yield

    monkeypatch.setattr(promotion_lock, "STALE_SECONDS", 0.3)
    return dying


# Of a promotion: the lock, eight tags of the record, what will change, both aliases, the status and so on.
@pytest.mark.parametrize("number", [2, 11, 13, 15])
def test_a_killed_promotion_completes_when_run_again(number, killed_at, recipe, tmp_path, mlflow_store):
    first, second = log_version(recipe, tmp_path, gain=0.5), log_version(recipe, tmp_path, gain=2.0)
    promote(recipe, NAME, first)
    with killed_at(number), pytest.raises(Killed):
        promote(recipe, NAME, second, reason="better")
    promote(recipe, NAME, second, reason="better")
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (second, first)
    tags = version_tags(NAME, second)
    assert (tags["promotion.status"], tags["promotion.replaced"]) == ("promoted", first)
    assert tags["promotion.reason"] == "better"
    assert [model.name for model in client().search_registered_models()] == [NAME], "no lock is left"
    assert roll_back(NAME) == (second, first)


@pytest.mark.parametrize("number", [6, 8, 10])
def test_a_killed_rollback_completes_when_run_again_and_goes_no_further(
    number, killed_at, recipe, tmp_path, mlflow_store
):
    first, second, third = (log_version(recipe, tmp_path, gain=gain) for gain in (0.5, 2.0, 4.0))
    for version in (first, second, third):
        promote(recipe, NAME, version)
    with killed_at(number), pytest.raises(Killed):
        roll_back(NAME, reason="it flickers")
    assert roll_back(NAME, reason="it flickers") == (third, second)
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (second, first)
    assert version_tags(NAME, third)["promotion.status"] == "rolled back"


def test_rolling_back_goes_through_all_champions_also_one_that_was_it_twice(recipe, tmp_path, mlflow_store):
    first, second = log_version(recipe, tmp_path, gain=0.5), log_version(recipe, tmp_path, gain=0.5)
    equal = load_recipe("realsr_x4", [*GATES, "promotion.gates=[{metric: psnr_y, min_improvement: -99}]"])
    for version in (first, second, f"0{first}"):
        assert promote(equal, NAME, version).promoted
    assert (champion_of(NAME), alias_of(NAME, "previous")) == (first, second)
    assert roll_back(NAME) == (first, second)
    assert roll_back(NAME) == (second, first)
    with pytest.raises(UsageError, match="nothing to roll back to"):
        roll_back(NAME)


def test_what_is_missing_is_one_clear_line(recipe, tmp_path, mlflow_store):
    with pytest.raises(UsageError, match=r"registered models at .*: none"):
        promote(recipe, "nobody", "1")
    version = new_version()
    with pytest.raises(
        UsageError, match=f"was not evaluated; run evaluation/evaluate.py --model models:/{NAME}/{version}"
    ):
        promote(recipe, NAME, version)
    with pytest.raises(UsageError, match="has no champion"):
        roll_back(NAME)


def test_command_exit_codes(recipe, tmp_path, mlflow_store):
    good, bad = log_version(recipe, tmp_path, gain=1.0), log_version(recipe, tmp_path, gain=-1.0)
    settings = ["promotion.gates=[{metric: psnr_y}]", "promotion.min_images=5", "evaluation.metrics=[psnr_y,ssim_y]"]

    def run(*arguments):
        command = [sys.executable, "evaluation/promote.py", "--recipe", "realsr_x4", "--model", NAME, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = run("--version", bad, *settings)
    assert refused.returncode == 3, refused.stderr
    assert "FAIL" in refused.stdout
    assert "PSNR-Y improvement over bicubic" in refused.stdout
    run_id = version_tags(NAME, bad)[EVALUATION_TAG]
    assert f"version {bad} was judged on pairs, evaluation run {run_id}" in refused.stdout
    accepted = run("--version", good, *settings)
    assert accepted.returncode == 0, accepted.stderr
    assert f"models:/{NAME}@champion" in accepted.stdout
