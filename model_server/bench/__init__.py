"""`threadsight bench`: measures the model's speed on this machine, as ratios to the plain way of using it.

The plain way ("tutorial") is transformers' `generate`, one question at a time, with history and picture processed again at every
turn, on the same weights. Both sides get the same conversations, write the same number of tokens greedily, and alternate, so that
other load on the machine slows both.
"""
