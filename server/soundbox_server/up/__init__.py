"""`soundbox up`: the whole platform on one machine, from one command, gone with one Ctrl-C."""

from soundbox_server.up.copy import Options, run
from soundbox_server.up.problems import UpRefused

__all__ = ["Options", "UpRefused", "run"]
