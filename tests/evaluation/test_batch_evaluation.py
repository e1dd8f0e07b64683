"""evaluate, end to end on small models: rows, resumption, other methods, the champion, and the spread of work."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.evaluator import image_seed, same_size_batches
from evaluation.pair_set import BrokenPair, Pair, open_pairs, read_pairs
from evaluation.promotion import promote
from evaluation.registry import EVALUATION_TAG, champion_of, client, load_evaluation, version_tags
from evaluation.rows import finished_shards, rows_url
from infra.errors import JobError, UsageError
from infra.recipe import load_recipe
from resshift import Restorer
from tests.evaluation.conftest import tiny_restorer
from tests.evaluation.evaluating import evaluate, register_tiny, run_in_process

QUICK = ["evaluation.metrics=[psnr_y,ssim_y]", "promotion.max_runtime_ratio=null"]
COLUMNS = ["key", "method", "psnr_y", "height", "width"]


@pytest.fixture
def lenient():
    """Gates that any tiny model passes."""
    gates = "promotion.gates=[{metric: psnr_y, min_improvement: -99}]"
    few = ["promotion.min_images=9", "promotion.min_photos=3"]
    return load_recipe("realsr_x4", [gates, *few, "promotion.max_runtime_ratio=null"])


def test_results_do_not_depend_on_how_work_is_divided(folder_pairs, bundle, tmp_path):
    restorer = Restorer.load(bundle)
    few = run_in_process(open_pairs(str(folder_pairs), images_per_shard=9), tmp_path / "few", restorer)
    many = run_in_process(open_pairs(str(folder_pairs), images_per_shard=2), tmp_path / "many", restorer)
    pd.testing.assert_frame_equal(few[COLUMNS], many[COLUMNS])
    for path in (tmp_path / "few" / "restored" / "model").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / "restored" / "model" / path.name).read_bytes()


def test_results_do_not_depend_on_the_batch_size(folder_pairs, bundle, tmp_path):
    """Each image keeps its noise; sums in a batch may round differently, which moves a few pixels by one level."""
    restorer, pairs = Restorer.load(bundle), open_pairs(str(folder_pairs), images_per_shard=5)
    alone = run_in_process(pairs, tmp_path / "alone", restorer)
    together = run_in_process(pairs, tmp_path / "together", restorer, batch_size=4)
    pd.testing.assert_frame_equal(alone[COLUMNS], together[COLUMNS], atol=0.02)
    for path in (tmp_path / "alone" / "restored" / "model").iterdir():
        one, other = (np.asarray(Image.open(tmp_path / name / "restored" / "model" / path.name), int)
                      for name in ("alone", "together"))  # fmt: skip
        assert np.abs(one - other).max() <= 1


def test_batches_hold_images_of_one_size_in_their_order():
    def pair(key, side, mask=None):
        return Pair(key, key, np.zeros((4 * side, 32, 3), np.uint8), np.zeros((side, 8, 3), np.uint8), mask, {})

    pairs = [
        pair("a", 8),
        pair("b", 8),
        pair("c", 8),
        pair("d", 9),
        BrokenPair("e", ""),
        BrokenPair("f", ""),
        pair("g", 9),
        pair("h", 9, np.zeros((9, 8), bool)),
        pair("i", 9, np.zeros((9, 7), bool)),
    ]
    batches = [[one.key for one in batch] for batch in same_size_batches(pairs, 2)]
    assert batches == [["a", "b"], ["c"], ["d"], ["e"], ["f"], ["g"], ["h"], ["i"]]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_actors(recipe, folder_pairs, bundle, tmp_path, mlflow_store, local_ray):
    outs = [tmp_path / f"{workers}" for workers in (1, 2)]
    one, two = (evaluate(recipe, bundle, folder_pairs, out, workers=int(out.name)) for out in outs)
    assert one["metrics"] == two["metrics"]
    for path in (outs[0] / "restored" / "model").iterdir():
        assert path.read_bytes() == (outs[1] / "restored" / "model" / path.name).read_bytes()


def test_another_cut_into_shards_is_another_evaluation(recipe, folder_pairs, bundle, tmp_path, mlflow_store, local_ray):
    """Rows are kept by shard: those of four images would else stand for a shard of sixteen."""
    evaluate(recipe, bundle, folder_pairs, tmp_path)
    larger = load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y,ssim_y]", "evaluation.images_per_shard=16"])
    with pytest.raises(UsageError, match=r"holds another evaluation \(images_per_shard: 4 -> 9\)"):
        evaluate(larger, bundle, folder_pairs, tmp_path)
    rows = tmp_path / "rows" / "000002.parquet"
    rows.write_bytes((tmp_path / "rows" / "000001.parquet").read_bytes())
    with pytest.raises(JobError, match=r"tell of 8 images in 12 rows, the test set holds 9; .* a new --out"):
        evaluate(recipe, bundle, folder_pairs, tmp_path)


def test_noise_differs_between_images_and_seeds():
    assert len({image_seed(seed, key) for seed in (0, 1) for key in ("a", "b")}) == 4
    assert image_seed(3, "000001-000002") == image_seed(3, "000001-000002")


def test_restored_images_are_saved_as_restored(folder_pairs, bundle, tmp_path):
    restorer = Restorer.load(bundle)
    pairs = open_pairs(str(folder_pairs), max_images=1)
    run_in_process(pairs, tmp_path, restorer)
    pair = next(iter(read_pairs(pairs, pairs.shards[0])))
    saved = np.asarray(Image.open(tmp_path / "restored" / "model" / f"{pair.key}.png"))
    restorer.tile_size, restorer.tile_overlap = 64, 8
    np.testing.assert_array_equal(saved, restorer(pair.lq, seed=image_seed(0, pair.key)))


def test_a_version_is_on_record_and_an_evaluation_goes_on(
    recipe, folder_pairs, tmp_path, mlflow_store, local_ray, lenient
):
    version, out = register_tiny(recipe, tmp_path / "bundle", seed=0), tmp_path / "out"
    first = evaluate(recipe, f"models:/tiny/{version}", folder_pairs, out)
    assert first["champion"] is None
    assert first["num_images"] == 9
    assert set(first["metrics"]["psnr_y"]["methods"]) == {"bicubic", "model"}
    run_id = version_tags("tiny", version)[EVALUATION_TAG]
    logged = load_evaluation(run_id)
    assert logged.summary == first
    assert len(logged.rows) == 18
    run = client().get_run(run_id).data
    assert run.metrics["psnr_y"] == pytest.approx(first["metrics"]["psnr_y"]["methods"]["model"]["mean"])
    assert run.tags["protocol.digest"] == first["protocol_digest"]
    assert run.tags["model.version"] == version
    for name, value in (("test_set.digest", first["protocol"]["test_set"]["digest"]), ("seed", "0"),
                        ("metrics.psnr_y", first["protocol"]["metrics"]["psnr_y"]), ("tile_size", "512"),
                        ("colour", first["protocol"]["colour"])):  # fmt: skip
        assert run.params[f"protocol.{name}"] == value

    # Resuming: the rows of a shard that is done are kept, a missing one is made again, the run is continued.
    done = sorted(finished_shards(str(out)))
    assert len(done) == 3
    kept, gone = (Path(rows_url(str(out), name)) for name in done[:2])
    before = kept.stat().st_mtime_ns
    gone.unlink()
    shutil.rmtree(out / "restored")  # somebody needed the space: the figures stay, pictures are what is made again
    again = evaluate(recipe, f"models:/tiny/{version}", folder_pairs, out)
    assert kept.stat().st_mtime_ns == before
    assert gone.exists()
    assert again["metrics"] == first["metrics"]
    assert len(client().search_runs([client().get_run(run_id).info.experiment_id], "tags.kind = 'evaluation'")) == 1
    assert (out / "report.html").read_text().count('<img data-role="model"') == 4

    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JobError, match=r"000000.parquet is damaged \(.*\); delete it to have it made again") as caught:
        evaluate(recipe, f"models:/tiny/{version}", folder_pairs, out)
    assert "\n" not in str(caught.value)

    other_seed = load_recipe("realsr_x4", [*QUICK, "evaluation.seed=1"])
    with pytest.raises(UsageError, match=r"holds another evaluation \(.*protocol.seed: 0 -> 1\)"):
        evaluate(other_seed, f"models:/tiny/{version}", folder_pairs, out)


@pytest.mark.slow
def test_the_champion_is_measured_or_its_evaluation_used_again(
    recipe, folder_pairs, tmp_path, mlflow_store, local_ray, lenient
):
    versions = [register_tiny(recipe, tmp_path / f"bundle{seed}", seed) for seed in (0, 1)]
    first = evaluate(recipe, f"models:/tiny/{versions[0]}", folder_pairs, tmp_path / "out0")
    assert promote(lenient, "tiny", versions[0]).promoted

    reused = evaluate(recipe, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "reused")
    assert reused["champion"]["version"] == versions[0]
    assert reused["champion"]["evaluation_run_id"] == version_tags("tiny", versions[0])[EVALUATION_TAG]
    assert not (tmp_path / "reused" / "restored" / "champion").exists()
    assert reused["seconds_per_megapixel"]["champion"] is None, "runtimes compare only side by side"
    report = (tmp_path / "reused" / "report.html").read_text()
    assert report.count('data-role="champion"') > 1, "its images come from where its own evaluation left them"

    asks_for_runtime = load_recipe("realsr_x4", ["evaluation.metrics=[psnr_y,ssim_y]", "promotion.max_runtime_ratio=9"])
    beside = evaluate(asks_for_runtime, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "beside")
    assert beside["champion"].get("evaluation_run_id") is None
    assert len(list((tmp_path / "beside" / "restored" / "champion").iterdir())) == 9
    assert beside["seconds_per_megapixel"]["champion"] > 0
    for summary in (reused, beside):
        figures = summary["metrics"]["psnr_y"]["methods"]
        assert figures["champion"]["mean"] == pytest.approx(first["metrics"]["psnr_y"]["methods"]["model"]["mean"])

    other_seed = load_recipe("realsr_x4", [*QUICK, "evaluation.seed=1"])
    anew = evaluate(other_seed, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "anew")
    assert anew["champion"].get("evaluation_run_id") is None, "another protocol: its own evaluation does not count"

    # An evaluation that goes on keeps the champion it began with, and needs nothing of the other run any more.
    shutil.rmtree(tmp_path / "out0")
    again = evaluate(recipe, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "reused")
    assert promote(lenient, "tiny", versions[1]).promoted
    assert champion_of("tiny") == versions[1]
    linked = version_tags("tiny", versions[1])["promotion.champion_evaluation_run_id"]
    assert linked == reused["champion"]["evaluation_run_id"], "a decision names the run its figures come from"
    later = evaluate(recipe, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "reused")
    for summary in (again, later):
        assert summary["champion"]["version"] == versions[0]
        assert summary["metrics"] == reused["metrics"]
    (tmp_path / "reused" / "champion.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobError, match=r"champion.parquet is damaged \(.*\); evaluate into a new --out"):
        evaluate(recipe, f"models:/tiny/{versions[1]}", folder_pairs, tmp_path / "reused", dry_run=True)


@pytest.mark.slow
def test_outputs_of_other_methods_are_measured_beside(recipe, folder_pairs, bundle, tmp_path, mlflow_store, local_ray):
    perfect, partial = tmp_path / "perfect", tmp_path / "partial"
    shutil.copytree(folder_pairs / "hq", perfect)
    partial.mkdir()
    names = sorted(path.stem for path in perfect.iterdir())
    for name in names[:6]:
        shutil.copy(perfect / f"{name}.png", partial / f"{name}x4.png")
    Image.new("RGB", (9, 9)).save(partial / f"{names[6]}.png")
    (partial / f"{names[7]}.png").write_bytes(b"no image")
    others = (f"perfect={perfect}", f"partial={partial}")
    summary = evaluate(recipe, bundle, folder_pairs, tmp_path / "out", others=others)
    figures = summary["metrics"]["psnr_y"]
    assert list(figures["methods"]) == ["bicubic", "partial", "perfect", "model"]
    assert figures["methods"]["perfect"]["mean"] == pytest.approx(80.0)
    assert figures["methods"]["partial"]["num_images"] == figures["improvement_over"]["partial"]["num_images"] == 6
    assert figures["num_images"] == figures["improvement_over"]["perfect"]["num_images"] == 9
    reasons = {item["key"]: item["error"] for item in summary["failed_others"]["partial"]}
    assert f"there is no image called '{names[8]}' in {partial}" == reasons[names[8]]
    assert "is 9x9 pixels, HQ 64x64" in reasons[names[6]]
    assert "is not an image" in reasons[names[7]]
    assert summary["failed"] == []
    assert summary["seconds_per_megapixel"].keys() == {"model"}
    assert 'data-role="perfect"' in (tmp_path / "out" / "report.html").read_text()

    # The --out of an evaluation under the same protocol is such a folder; under another one it is refused.
    tiny_restorer(5).save(tmp_path / "five")
    mine = evaluate(recipe, tmp_path / "five", folder_pairs, tmp_path / "out5", others=(f"first={tmp_path / 'out'}",))
    assert mine["metrics"]["psnr_y"]["methods"]["first"]["mean"] == pytest.approx(figures["methods"]["model"]["mean"])
    other_seed = load_recipe("realsr_x4", [*QUICK, "evaluation.seed=7"])
    with pytest.raises(UsageError, match=r"under different protocols and cannot be compared \(seed: 0 -> 7\)"):
        evaluate(other_seed, tmp_path / "five", folder_pairs, tmp_path / "out7", others=(f"first={tmp_path / 'out'}",))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ("folder", "give NAME=DIR"),
        ("a b=folder", "give NAME=DIR"),
        ("model=folder", "the name 'model' is taken"),
        ("HQ=folder", "the name 'HQ' is taken"),
        ("x=nowhere", "there is no image in '/.*nowhere'"),
    ],
)
def test_what_names_no_other_method_is_one_clear_line(other, complaint, recipe, folder_pairs, bundle, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        evaluate(recipe, bundle, folder_pairs, tmp_path / "out", others=(other,))
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(recipe, folder_pairs, bundle, tmp_path, mlflow_store):
    plan = evaluate(recipe, bundle, folder_pairs, tmp_path / "out", dry_run=True)
    assert plan["identity"]["protocol"]["test_set"]["num_images"] == 9
    assert not (tmp_path / "out").exists()


def test_precision_is_part_of_the_protocol(folder_pairs, bundle, tmp_path, mlflow_store):
    recipes = [load_recipe("realsr_x4", [f"evaluation.precision={name}"]) for name in ("float32", "bfloat16")]
    plans = [evaluate(one, bundle, folder_pairs, tmp_path / "out", dry_run=True) for one in recipes]
    assert [plan["identity"]["protocol"]["precision"] for plan in plans] == ["float32", "bfloat16"]
    assert plans[0]["protocol_digest"] != plans[1]["protocol_digest"]
    pairs = open_pairs(str(folder_pairs), max_images=2)
    exact, rounded = (
        run_in_process(pairs, tmp_path / precision, Restorer.load(bundle), precision=precision)
        for precision in ("float32", "bfloat16")
    )
    model = exact["method"] == "model"
    assert not np.allclose(exact[model]["psnr_y"], rounded[model]["psnr_y"], atol=1e-6)
    np.testing.assert_allclose(exact[model]["psnr_y"], rounded[model]["psnr_y"], atol=0.5)
