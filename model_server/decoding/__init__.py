"""Untrusted bytes become pixels here: what a file is, which decoder may see it, and how its pixels become what a viewer shows.

Nothing in here knows names or chats; whatever is wrong with a picture is a `Refused` with the rest of a sentence.
"""
