"""The learnability of tokens: bits and samples of a small generator that is trained on them."""
