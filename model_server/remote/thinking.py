"""What a model thinks aloud before it answers, between marks in the answer's text, when its server does not take it out.

Only at the beginning: further on, the marks are what the model says about them.
"""

from __future__ import annotations

# The marks of models that look at pictures; an opening one and its closing one.
_MARKS = {
    "<think>": "</think>",  # Qwen-VL, GLM-V, InternVL, MiMo-VL, and most others
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",  # Gemini behind OpenAI's protocol
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi-VL
    "<|channel>thought": "<channel|>",  # Gemma 4
}
_USUAL_OPENING, _USUAL_CLOSING = "<think>", "</think>"
_UNOPENED = f"\n{_USUAL_CLOSING}\n"


class ThinkingFilter:
    """Takes the thinking out of one answer's text, which comes in pieces.

    Some templates put the opening mark into the prompt, and the text begins within the thinking. That cannot be known before the
    closing mark is there: then `is_unopened` is set, and `starts_open` hides it in the next answers.
    """

    def __init__(self, *, starts_open: bool = False) -> None:
        self.has_thinking = False
        self.starts_open = self.is_unopened = starts_open
        self._is_assumed = starts_open  # that what is held is thinking
        self._closing = _USUAL_CLOSING if starts_open else None  # the mark that is waited for
        self._is_beginning = True
        self._held = ""  # text that may turn out to be thinking, or a part of a mark
        self._tail = ""  # the end of what was shown
        self._has_shown_opening = False  # then a closing mark is a part of what the model says about them

    def feed(self, text: str) -> str:
        """Take a piece of the text, and return what can be shown now."""
        self._held += text
        while True:
            if self._closing is not None:
                _, mark, after = self._held.partition(self._closing)
                if not mark:
                    if not self._is_assumed:
                        self._held = self._held[-len(self._closing) :]
                    return ""
                self._held, self._closing, self._is_assumed, self.has_thinking = after, None, False, True
            elif self._is_beginning:
                begun = self._held.lstrip()
                if closing := next((closing for opening, closing in _MARKS.items() if begun.startswith(opening)), None):
                    self._closing, self.has_thinking = closing, True
                elif begun.startswith(_USUAL_CLOSING):  # of no thinking at all
                    self._held, self.has_thinking = begun.removeprefix(_USUAL_CLOSING), True
                elif any(mark.startswith(begun) for mark in (*_MARKS, _USUAL_CLOSING)):
                    return ""
                else:
                    self._is_beginning = False
                    self._held = begun if self.has_thinking else self._held
            else:
                return self._show()

    def end(self, *, is_cut: bool) -> str:
        """The rest that can be shown. `is_cut`: the answer reached its longest length."""
        if self._closing is not None and not (self._is_assumed and not is_cut):
            self.has_thinking = True
            return ""
        if self._is_assumed:  # it did not think this time
            self.is_unopened = self._is_assumed = False
            self._closing = None
        return self._show()

    def _show(self) -> str:
        shown, self._held = self._held, ""
        end = self._tail + shown
        before, closing, _ = end.partition(_UNOPENED)
        self._has_shown_opening |= _USUAL_OPENING in before
        self.is_unopened |= bool(closing) and not (self.has_thinking or self._has_shown_opening)
        self._tail = end[-len(_UNOPENED) :]
        return shown


def without_thinking(text: str) -> str:
    """A whole answer's text without the thinking at its beginning; as it is if that has no end."""
    thinking = ThinkingFilter()
    shown = thinking.feed(text) + thinking.end(is_cut=False)
    return shown if shown.strip() or not text.strip() else text
