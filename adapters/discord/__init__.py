"""Discord. `settings.py`, `platform.py` and `setup.py` work without discord.py; all other modules need the extra `discord`."""
