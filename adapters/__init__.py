"""One file or folder per platform: each translates between the platform's events and the words of `adapters.base`."""
