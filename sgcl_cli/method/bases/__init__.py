"""The bases, which compute L_self, and to which SGCL's other terms are added.

A further base is a file beside these, a row in ``BASES`` and a name among the choices of ``--base``.
"""

from sgcl_cli.method.bases.base import Base, Slopes
from sgcl_cli.method.bases.moco import Moco
from sgcl_cli.method.bases.npid import Npid

__all__ = ["BASES", "Base", "Moco", "Npid", "Slopes"]

BASES: dict[str, type[Base]] = {"npid": Npid, "moco": Moco}
