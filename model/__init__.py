"""The network, its dropout masks, MC-dropout sampling and the statistics of its answers."""
