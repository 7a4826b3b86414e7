"""The Open Inference Protocol (V2) of Triton's and KServe's clients; see docs/protocol.md."""
