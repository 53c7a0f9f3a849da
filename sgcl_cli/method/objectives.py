"""The objectives by the name that ``--base`` gives them.

SGCL over each of its bases. An objective of another kind is a file with a subclass of ``Objective``, a row here and its
name among the choices of ``--base``.
"""

from __future__ import annotations

from sgcl_cli.method.bases import BASES
from sgcl_cli.method.objective import Objective
from sgcl_cli.method.sgcl import SGCL

OBJECTIVES: dict[str, type[Objective]] = dict.fromkeys(BASES, SGCL)
