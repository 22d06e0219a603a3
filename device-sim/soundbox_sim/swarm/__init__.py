"""Thousands of boxes in one process, with a customer, an operator and somebody who compares what was paid with what
was heard."""
