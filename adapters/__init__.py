"""One file or folder per platform: each translates between the platform's events and the types of `adapters.base`."""
