from support.merchant import owner, shop

__all__ = ["owner", "shop"]
