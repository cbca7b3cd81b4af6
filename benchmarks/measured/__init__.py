"""What several benchmarks measure in the same way, and of what: allocations, llama, seeds, texts."""
