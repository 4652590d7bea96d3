"""The gate in the kernel: a ruleset and sets of nftables beside the gate in the workers."""
