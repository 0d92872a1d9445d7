"""One file per published method; `METHODS` names them.

A method is a class built as `Method(network, plan, settings)` with
    modules              an nn.ModuleDict of everything to train or keep; "network" is what fine-tuning takes
    loss(pool, generator, fraction) -> (loss, numbers worth a curve)
    after_step(fraction) what follows an optimizer step
and `Settings`, a frozen dataclass of its numbers. Nothing else of the engine knows a method.
"""

from __future__ import annotations

from medssl.methods.mae import MAE
from medssl.methods.pgl import PGL

METHODS: dict[str, type[PGL] | type[MAE]] = {"pgl": PGL, "mae": MAE}
