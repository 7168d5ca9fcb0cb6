"""Long-running checks: fuzzed files, killed runs, and the code in the manual."""
