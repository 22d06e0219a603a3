"""The words of what is kept for finding out."""

from enum import StrEnum


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


class Seen(StrEnum):
    READ = "read"  # a box said it, and it could be read
    UNREADABLE = "unreadable"
    SENT = "sent"  # handed to the broker, which proves nothing
    NOT_SENT = "not_sent"  # the connection took no more; the sweep sends it again


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class FileState(StrEnum):
    RECEIVING = "receiving"
    WHOLE = "whole"
    DAMAGED = "damaged"  # all pieces came, and they are not what the box said they are
    EXPIRED = "expired"
