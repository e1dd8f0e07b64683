"""Promote a model version to champion if its evaluation passes the recipe's gates, or roll back."""

from typing import Annotated

import typer

from infra.cli import DryRunOption, OverridesArgument, RecipeOption, run
from infra.errors import UsageError
from infra.recipe import load_recipe


def main(
    recipe: RecipeOption,
    model: Annotated[str, typer.Option(help="Name of the registered model.", show_default=False)],
    version: Annotated[
        str | None, typer.Option(help="Version to promote; with --rollback, the champion to leave.", show_default=False)
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Give champion back to the version it replaced.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
    dry_run: DryRunOption = False,
    overrides: OverridesArgument = None,
) -> None:
    """Check the recipe's gates for a version and make it the champion; exit code 3 if a gate refuses."""
    resolved = load_recipe(recipe, overrides or [])
    from evaluation.promotion import EXIT_REFUSED, promote, roll_back  # late: --help is answered at once
    from evaluation.table import console, gates_table

    printer = console()
    would = "would be" if dry_run else "is"
    if rollback:
        left, restored = roll_back(model, reason, version, dry_run)
        printer.print(f"{model} version {restored} {would} the champion again (was version {left})", highlight=False)
        return
    if version is None:
        raise UsageError("--version: is missing; give the version to promote, or --rollback")
    decision = promote(resolved, model, version, reason, dry_run)
    if not decision.results:
        printer.print(f"{model} version {version} is the champion already", highlight=False)
        return
    printer.print(gates_table(decision.name, decision.version, decision.results))
    for found in decision.evidence:
        line = f"{found.whose} was judged on {found.data}, evaluation run {found.run_id}"
        printer.print(line, soft_wrap=True, highlight=False, markup=False)
    if not decision.promoted:
        printer.print(f"{model} version {version} {would} refused; the champion stays", highlight=False)
        raise typer.Exit(EXIT_REFUSED)
    replaced = f", in place of version {decision.replaced}" if decision.replaced else ""
    printer.print(
        f"{model} version {version} {would} the champion{replaced}: models:/{model}@champion", highlight=False
    )


def cli() -> None:
    """Entry point of the console script."""
    run(main)


if __name__ == "__main__":
    cli()
