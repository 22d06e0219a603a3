"""What a forked process finds done: the product imported, and an app put together whose routes are resolved.

Imported by the process that the others are forked from (support/forks.py).
"""

import contextvars
import gc
import importlib

import structlog
from fastapi import FastAPI
from support.trust import trust_one_authority

import soundbox_server.app
from soundbox_server import logs
from soundbox_server.settings import Settings

_COMMANDS_NEED = ("cli", "doctor", "guard", "migrate", "resealing", "sandbox.app", "scoring.service", "seed", "worker")

for _name in _COMMANDS_NEED:
    importlib.import_module(f"soundbox_server.{_name}")

_create_app = soundbox_server.app.create_app


def _resolved() -> FastAPI:
    app = _create_app(Settings())
    soundbox_server.app.resolve_routes(app)
    return app


def _prepared(settings: Settings, *, own_process: bool = False) -> FastAPI:
    """Apps differ in nothing but their settings, except in production."""
    if settings.environment == "production":
        return _create_app(settings, own_process=own_process)
    logs.configure(process="api", form=settings.log_format, level=settings.log_level)
    _app.state.settings, _app.state.own_process = settings, own_process
    return _app


trust_one_authority()
_app = contextvars.copy_context().run(_resolved)
structlog.reset_defaults()  # each process says how it logs
soundbox_server.app.create_app = _prepared
gc.collect()
gc.freeze()  # what is here stays: no fork looks through it for garbage, and so copies it
