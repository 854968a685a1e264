"""`threadsight bench`: how fast the model is on this machine, as ratios to the plain way of using it.

The plain way ("tutorial") is transformers' `generate`, one question at a time, history and picture processed again at every turn,
on the same weights. Both sides get the same conversations, write the same number of tokens greedily, and take turns, so that
whatever else the machine does slows both.
"""
