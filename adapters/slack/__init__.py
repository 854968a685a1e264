"""Slack. `settings.py`, `platform.py` and `setup.py` work without Slack's packages; everything else needs the extra `slack`."""
