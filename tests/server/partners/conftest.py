from support.partner import hub, partner, platform, shop

__all__ = ["hub", "partner", "platform", "shop"]
