"""Text, whichever platform shows it: the Markdown that the model writes, and the links and mentions that people write."""
