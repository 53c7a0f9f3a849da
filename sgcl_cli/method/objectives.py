"""The objectives by their names in ``--base``.

SGCL with each of its bases. An objective of another kind is a subclass of ``Objective`` in a file of its own, a row here and a
name among the choices of ``--base``.
"""

from __future__ import annotations

from sgcl_cli.method.bases import BASES
from sgcl_cli.method.objective import Objective
from sgcl_cli.method.sgcl import SGCL

OBJECTIVES: dict[str, type[Objective]] = dict.fromkeys(BASES, SGCL)
