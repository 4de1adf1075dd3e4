"""The checker of proofs that two networks are equal: both side by side, as one network for `stablenet.check`."""
