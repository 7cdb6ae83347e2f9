"""What trainers read of runs: batches, windows, epochs, samples, the newest rows."""
