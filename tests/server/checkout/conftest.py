from support.partner import hub, partner, shop

__all__ = ["hub", "partner", "shop"]
