"""Units of length in file headers."""

from __future__ import annotations

from collections.abc import Sequence

PREFIXES = {"": 1e3, "d": 1e2, "deci": 1e2, "c": 10.0, "centi": 10.0, "m": 1.0, "milli": 1.0, "u": 1e-3,
            "µ": 1e-3, "μ": 1e-3, "micro": 1e-3, "n": 1e-6, "nano": 1e-6}  # fmt: skip
"""Millimetres per metre with this prefix; the micro sign and the Greek mu are different characters."""
WORDS = {"micron": 1e-3, "microns": 1e-3, "in": 25.4, "inch": 25.4, "inches": 25.4}


def mm_per_unit(unit: str) -> float | None:
    """Millimetres per unit of length; None for an unknown unit such as "pixel".

    Args:
        unit: A symbol or a name in any case and number, e.g. "mm", "um", "Microns", "metres".
    """
    name = unit.strip().strip("\"'").strip().lower()
    if name in WORDS:
        return WORDS[name]
    for suffix in ("metres", "meters", "metre", "meter", "m"):
        if name.endswith(suffix):
            return PREFIXES.get(name.removesuffix(suffix))
    return None


def mm_per_axis(units: Sequence[str], notes: list[str]) -> list[float]:
    """Millimetres per unit of each axis. A unit that is not stated or unknown is taken as mm.

    Args:
        units: A unit per axis; empty if it is not stated.
        notes: Receives a sentence for unknown units.
    """
    factors = [mm_per_unit(unit) for unit in units]
    unknown = {unit for unit, factor in zip(units, factors, strict=True) if factor is None and unit.strip()}
    if unknown:
        listed = ", ".join(repr(unit) for unit in sorted(unknown))
        notes.append(f"The unit of its spacing is {listed}, which is no known length; it is taken as mm.")
    return [1.0 if factor is None else factor for factor in factors]
