"""The kinds of merchants that rules speak of."""

from enum import StrEnum


class FeeCategory(StrEnum):
    """Merchants whom the rule book gives a rate of their own, whatever their criteria."""

    EDUCATION = "education"
    SPBU = "SPBU"  # petrol stations
    BLU = "BLU"  # public service agencies
    PSO = "PSO"  # subsidised services
    G2P = "G2P"  # government to people
    P2G = "P2G"
    NONPROFIT_DONATION = "nonprofit_donation"
