from support.merchant import hub, owner, shop

__all__ = ["hub", "owner", "shop"]
