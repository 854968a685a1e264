"""The platforms, a folder each, which translate between a platform's events and the types of `base.py`; and what they share:
`conversations/` and `text/`."""
