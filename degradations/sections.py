"""What every configuration section shares: frozen models, checked ranges and probabilities, one-line errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class Section(BaseModel):
    """A frozen section; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] <= value[1]:  # NaN, too
        raise ValueError(f"upside down; write the lower end first: [{value[1]}, {value[0]}]")
    return value


def _positive(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] > 0:
        raise ValueError("the lower end must be above 0")
    return value


def _not_negative(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] < 0:
        raise ValueError("the lower end must not be below 0")
    return value


def _counts(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] < 1:
        raise ValueError("the lower end must be at least 1")
    return value


def _fraction(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] < 0 or value[1] > 1:
        raise ValueError("fractions lie in 0..1")
    return value


def _odd(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] < 1 or value[0] % 2 == 0 or value[1] % 2 == 0:
        raise ValueError("kernel sizes must be odd and at least 1")
    return value


def _odd_size(value: int) -> int:
    if value < 1 or value % 2 == 0:
        raise ValueError("a kernel size must be odd and at least 1")
    return value


def _quality(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] < 1 or value[1] > 100:
        raise ValueError("JPEG qualities lie in 1..100")
    return value


def sums_to_one(value: Mapping[str, float]) -> Mapping[str, float]:
    """Validator of a table of probabilities."""
    negative = [name for name, prob in value.items() if prob < 0]
    if negative:
        raise ValueError(f"the probability of {negative[0]!r} is negative")
    total = sum(value.values())
    if not abs(total - 1) <= 1e-6:  # NaN, too
        raise ValueError(f"the probabilities sum to {total:g}; they must sum to 1")
    return value


PositiveRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_positive)]
NonNegativeRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_not_negative)]
PositiveCountRange = Annotated[tuple[int, int], AfterValidator(_ordered), AfterValidator(_counts)]
FractionRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_fraction)]
OddRange = Annotated[tuple[int, int], AfterValidator(_ordered), AfterValidator(_odd)]
QualityRange = Annotated[tuple[int, int], AfterValidator(_ordered), AfterValidator(_quality)]
OddSize = Annotated[int, AfterValidator(_odd_size)]
Probability = Annotated[float, Field(ge=0, le=1)]

S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """`model` from plain values; raises a one-line ValueError that names the field, the value and the remedy."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(model, detail, where) for detail in error.errors())) from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top. Nested sections merge; a table of probabilities (`*_prob`) is replaced."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping) and not key.endswith("_prob"):
            result[key] = merged(inner, value)
        else:
            result[key] = value
    return result


def _explain(model: type[BaseModel], detail: Any, where: str) -> str:
    path = ".".join([where, *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(model, detail["loc"][:-1]))
        return f"{path} is not a known key; valid keys are: {known}"
    if detail["type"] == "missing":
        return f"{path} is missing; add it"
    return f"{path} is {detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return sorted(model.model_fields)
