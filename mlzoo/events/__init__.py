"""The log: what was asked, what happened, how both become bytes, and where the bytes lie."""
