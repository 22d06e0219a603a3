"""What keeps `soundbox up` from starting."""


class UpRefused(Exception):
    """Something the operator can mend; the message says what."""
