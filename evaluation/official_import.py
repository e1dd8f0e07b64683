"""import-official: a released ResShift model becomes a registered version that evaluates and restores like our own."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import mlflow

from evaluation.official import build_restorer, official_recipe, read_config
from infra.errors import UsageError
from infra.models import register
from infra.tracking import start_run, tracking_errors


def import_official(
    config: str, denoiser: str, autoencoder: str, name: str, task: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Register the model of an official YAML file and its two checkpoints as a new version of `name`.

    Returns a description: the recipe, the sha256 of each file, and (unless `dry_run`, which builds the networks and
    registers nothing) the version. Raises UsageError for files that do not exist or do not fit each other.
    """
    files = {"config": Path(config), "denoiser": Path(denoiser), "autoencoder": Path(autoencoder)}
    for what, path in files.items():
        if not path.is_file():
            raise UsageError(f"{what} '{path}': does not exist; give the file of the official release")
    official = read_config(files["config"], task)
    restorer = build_restorer(official, files["denoiser"], files["autoencoder"])
    recipe = official_recipe(official, restorer, name)
    digests = {what: _sha256(path) for what, path in files.items()}
    described: dict[str, Any] = {"recipe": dict(recipe.raw), "sha256": digests}
    if dry_run:
        return described
    tags = {"origin": "official ResShift release", **{f"official.{what}.sha256": sha for what, sha in digests.items()}}
    with start_run(name, f"import of {files['denoiser'].name}", tags={"kind": "import", **tags}) as run:
        with tracking_errors():
            mlflow.log_artifact(str(files["config"]))
        with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
            folder = Path(scratch, "model")
            restorer.save(folder)
            (folder / "recipe.json").write_text(json.dumps(dict(recipe.raw), indent=2) + "\n")
            version = register(folder, name, run_id=run.info.run_id, tags=tags)
    return described | {"version": version, "uri": f"models:/{name}/{version}"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
