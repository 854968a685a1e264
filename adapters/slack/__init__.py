"""Slack. `settings.py`, `platform.py` and `setup.py` work without Slack's packages; all other modules need the extra `slack`."""
