"""The Open Inference Protocol (V2), as Triton's and KServe's clients speak it; see docs/protocol.md."""
