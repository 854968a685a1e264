"""The web page: one aiohttp server, plain ES modules and CSS, no build step."""
