"""The world outside, simulated: the same shapes as ``mlzoo.world``, driven by a seed, with its failures on purpose."""
