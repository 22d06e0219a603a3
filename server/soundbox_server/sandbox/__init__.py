"""An acquirer to try things with: a separate HTTP service that issues QRIS, takes payments and calls back.

It shares no state with the hub, only wire formats; what a real partner may do wrong, it does on command (`faults.py`).
"""
