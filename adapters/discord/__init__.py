"""Discord. `settings.py`, `platform.py` and `setup.py` work without discord.py; everything else needs the extra `discord`."""
